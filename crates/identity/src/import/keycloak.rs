//! Reads a realm as Keycloak exports it (`kc.sh export`, or a partial export with `--users realm_file`): its roles, groups,
//! users with their hashed passwords and authenticators, and clients.
//!
//! What has no counterpart here is left out, and each thing left out is named with the reason: nothing is lost in silence.

use std::collections::{BTreeMap, BTreeSet};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use serde::Deserialize;
use serde_json::Value;
use testudo_model::{ClientName, GroupName, Redacted, RoleName, Username};

use super::{ImportClient, ImportUser, ImportedRealm, LeftOut};
use crate::{
    ClientKind, ClientLogout, ClientPolicy, ClientProfile, ClientSigning, ConsentRule, GrantType,
    RedirectUri, UserProfile,
};

/// Clients that every realm has for Keycloak itself.
const BUILT_IN_CLIENTS: [&str; 6] = [
    "account",
    "account-console",
    "admin-cli",
    "broker",
    "realm-management",
    "security-admin-console",
];
/// Roles that every realm has; they mean nothing here.
const BUILT_IN_ROLES: [&str; 2] = ["offline_access", "uma_authorization"];
/// Names of roles that administer the fleet begin so: nobody gets one by coming from elsewhere.
const OWN_ROLES: &str = "testudo-";
/// Depth of groups in groups.
const MAX_DEPTH: usize = 16;
/// What an export says instead of a secret.
const MASK: &str = "**********";

/// Longest export: a user has about a kilobyte.
const MAX_REALM_BYTES: usize = 512 * 1024 * 1024;

/// Why a text is not a realm.
#[derive(Debug, thiserror::Error)]
pub enum NotARealm {
    /// Something else, or cut short.
    #[error("this is not a realm as Keycloak exports it")]
    Json(#[from] serde_json::Error),
    /// Beyond what is read at once.
    #[error(
        "the export has more than {} MiB: export users in several files and import each",
        MAX_REALM_BYTES / 1024 / 1024
    )]
    TooLarge,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Realm {
    realm: String,
    #[serde(default)]
    roles: Roles,
    #[serde(default)]
    groups: Vec<Group>,
    #[serde(default)]
    users: Vec<User>,
    #[serde(default)]
    clients: Vec<Client>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Roles {
    realm: Vec<Role>,
    client: BTreeMap<String, Vec<Role>>,
}

#[derive(Deserialize)]
struct Role {
    name: String,
    #[serde(default)]
    composites: Composites,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Composites {
    realm: Vec<String>,
    client: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    #[serde(default)]
    realm_roles: Vec<String>,
    #[serde(default)]
    client_roles: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    sub_groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    username: String,
    #[serde(default)]
    first_name: Option<String>,
    #[serde(default)]
    last_name: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    credentials: Vec<Credential>,
    #[serde(default)]
    realm_roles: Vec<String>,
    #[serde(default)]
    client_roles: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    service_account_client_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credential {
    #[serde(rename = "type")]
    kind: String,
    /// JSON in a text.
    #[serde(default)]
    secret_data: Redacted<String>,
    /// JSON in a text.
    #[serde(default)]
    credential_data: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Client {
    client_id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    public_client: bool,
    #[serde(default)]
    bearer_only: bool,
    #[serde(default)]
    standard_flow_enabled: bool,
    #[serde(default)]
    service_accounts_enabled: bool,
    #[serde(default)]
    consent_required: bool,
    #[serde(default)]
    secret: Option<Redacted<String>>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, Value>,
}

/// Reads an export.
///
/// # Errors
/// It is no JSON, or not of a realm.
pub fn read(text: &str) -> Result<ImportedRealm, NotARealm> {
    if text.len() > MAX_REALM_BYTES {
        return Err(NotARealm::TooLarge);
    }
    let realm: Realm = serde_json::from_str(text)?;
    let mut reading = Reading {
        imported: ImportedRealm {
            name: realm.realm.clone(),
            ..ImportedRealm::default()
        },
        composites: BTreeMap::new(),
        shared: shared_names(&realm.groups),
        groups: BTreeMap::new(),
    };
    reading.roles(&realm);
    for group in &realm.groups {
        reading.group(group, None, "", 0);
    }
    for user in realm.users {
        reading.user(user);
    }
    for client in realm.clients {
        reading.client(client);
    }
    Ok(reading.imported)
}

struct Reading {
    imported: ImportedRealm,
    /// For each role, as here: the roles in it.
    composites: BTreeMap<RoleName, Vec<RoleName>>,
    /// Names that several groups have.
    shared: BTreeSet<String>,
    /// For each path of a group: its name here, and the roles that its members have by it.
    groups: BTreeMap<String, (GroupName, BTreeSet<RoleName>)>,
}

impl Reading {
    fn leave_out(&mut self, kind: &'static str, name: &str, why: impl Into<String>) {
        self.imported.left_out.push(LeftOut {
            kind,
            name: name.to_owned(),
            why: why.into(),
        });
    }

    fn roles(&mut self, realm: &Realm) {
        let default = format!("default-roles-{}", realm.realm.to_lowercase());
        let of_realm = realm.roles.realm.iter().map(|role| (None, role));
        let of_clients = realm.roles.client.iter().flat_map(|(client, roles)| {
            let is_built_in = BUILT_IN_CLIENTS.contains(&client.as_str());
            let roles = roles.iter().filter(move |_| !is_built_in);
            roles.map(move |role| (Some(client.as_str()), role))
        });
        for (client, role) in of_realm.chain(of_clients) {
            let is_built_in = client.is_none()
                && (role.name == default || BUILT_IN_ROLES.contains(&role.name.as_str()));
            if is_built_in {
                continue;
            }
            let Some(name) = role_name(client, &role.name) else {
                let why = "its name cannot be one here: letters, digits and `-._:`, at most 64, and not one of the \
                           fleet's own";
                self.leave_out("role", &role.name, why);
                continue;
            };
            let inner = role_names(&role.composites.realm, &role.composites.client);
            self.composites
                .insert(name.clone(), inner.into_iter().collect());
            self.imported.roles.push(name);
        }
    }

    /// The roles, and those in them, of which there are any here.
    fn with_composites(&self, roles: BTreeSet<RoleName>) -> BTreeSet<RoleName> {
        let mut all = BTreeSet::new();
        let mut open: Vec<RoleName> = roles.into_iter().collect();
        while let Some(role) = open.pop() {
            if let Some(inner) = self.composites.get(&role)
                && all.insert(role)
            {
                open.extend(inner.iter().cloned());
            }
        }
        all
    }

    fn group(&mut self, group: &Group, parent: Option<&GroupName>, path: &str, depth: usize) {
        let path = format!("{path}/{}", group.name);
        if depth >= MAX_DEPTH {
            return self.leave_out("group", &path, "it is too deep in others");
        }
        // Groups are known by name alone here: what several have is told apart by where they are.
        let is_shared = self.shared.contains(&name_of(&group.name));
        let text = match is_shared {
            true => path.trim_start_matches('/'),
            false => &group.name,
        };
        let name = name_of(text).parse::<GroupName>().ok();
        let name = name.filter(|name| !self.imported.groups.contains_key(name));
        let Some(name) = name else {
            let why =
                "its name cannot be one here: letters, digits and `-._:`, at most 64, and once";
            return self.leave_out("group", &path, why);
        };
        self.imported
            .groups
            .insert(name.clone(), parent.into_iter().cloned().collect());
        let roles = role_names(&group.realm_roles, &group.client_roles);
        let roles = self.with_composites(roles);
        let inherited = path
            .rsplit_once('/')
            .and_then(|(above, _)| self.groups.get(above));
        let inherited = inherited
            .map(|(_, roles)| roles.clone())
            .unwrap_or_default();
        let roles = roles.into_iter().chain(inherited).collect();
        self.groups.insert(path.clone(), (name.clone(), roles));
        for inner in &group.sub_groups {
            self.group(inner, Some(&name), &path, depth + 1);
        }
    }

    fn user(&mut self, user: User) {
        if let Some(client) = &user.service_account_client_id {
            let why =
                format!("it is the service account of `{client}`: declare it in the fleet file");
            return self.leave_out("user", &user.username, why);
        }
        let Ok(username) = user.username.to_lowercase().parse::<Username>() else {
            let why = "the name cannot be one here: a-z, 0-9 and `-._@+`, at most 128";
            return self.leave_out("user", &user.username, why);
        };
        let mut roles = self.with_composites(role_names(&user.realm_roles, &user.client_roles));
        let mut groups = Vec::new();
        for path in &user.groups {
            match self.groups.get(path) {
                Some((name, of_group)) => {
                    groups.push(name.clone());
                    roles.extend(of_group.iter().cloned());
                }
                None => self.leave_out(
                    "membership",
                    &user.username,
                    format!("there is no group `{path}` here"),
                ),
            }
        }
        let names = [user.first_name, user.last_name];
        let name = names.into_iter().flatten().filter(|name| !name.is_empty());
        let name = name.collect::<Vec<_>>().join(" ");
        let email = user.email.filter(|email| !email.is_empty());
        let mut imported = ImportUser {
            profile: UserProfile {
                display_name: (!name.is_empty()).then_some(name),
                email_verified: email.as_ref().map(|_| user.email_verified),
                email,
                clearance: 0,
                groups,
                roles: roles.into_iter().collect(),
            },
            disabled: !user.enabled,
            password_hash: None,
            totp: None,
            username,
        };
        for credential in &user.credentials {
            if let Err(why) = credential.add_to(&mut imported) {
                self.leave_out("credential", &user.username, why);
            }
        }
        self.imported.users.push(imported);
    }

    fn client(&mut self, client: Client) {
        if BUILT_IN_CLIENTS.contains(&client.client_id.as_str()) {
            return;
        }
        match client.imported() {
            Ok((imported, notes)) => {
                for why in notes {
                    self.leave_out("part of a client", imported.client_id.as_str(), why);
                }
                self.imported.clients.push(imported);
            }
            Err(why) => self.leave_out("client", &client.client_id, why),
        }
    }
}

impl Credential {
    fn add_to(&self, user: &mut ImportUser) -> Result<(), String> {
        match self.kind.as_str() {
            "password" => {
                user.password_hash = Some(self.password().ok_or(
                    "the password is hashed in a way that cannot be read here: they need a new one",
                )?);
                Ok(())
            }
            "otp" => {
                user.totp = Some(self.totp().ok_or(
                    "the authenticator counts, or has other than 6 digits of SHA-1 every 30 seconds: they need a new one",
                )?);
                Ok(())
            }
            other => Err(format!(
                "a credential of type `{other}` cannot be moved: they need a new one"
            )),
        }
    }

    /// In PHC form.
    fn password(&self) -> Option<Redacted<String>> {
        #[derive(Deserialize)]
        struct Secret {
            value: String,
            salt: String,
        }
        let secret: Secret = serde_json::from_str(self.secret_data.expose()).ok()?;
        let data: Value = serde_json::from_str(&self.credential_data).ok()?;
        let plain = |text: &str| Some(STANDARD_NO_PAD.encode(STANDARD.decode(text).ok()?));
        let (hash, salt) = (plain(&secret.value)?, plain(&secret.salt)?);
        let iterations = data.get("hashIterations")?.as_u64()?;
        let phc = match data.get("algorithm")?.as_str()? {
            name @ ("pbkdf2" | "pbkdf2-sha256" | "pbkdf2-sha512") => {
                format!("${name}$i={iterations}${salt}${hash}")
            }
            "argon2" => {
                let parameter = |name: &str| {
                    let value = data.get("additionalParameters")?.get(name)?;
                    value.get(0).unwrap_or(value).as_str()
                };
                if parameter("type") != Some("id") || parameter("version") != Some("1.3") {
                    return None;
                }
                let (memory, lanes) = (parameter("memory")?, parameter("parallelism")?);
                format!("$argon2id$v=19$m={memory},t={iterations},p={lanes}${salt}${hash}")
            }
            _ => return None,
        };
        testudo_trust::is_password_hash(&phc).then(|| Redacted::new(phc))
    }

    /// The shared secret.
    fn totp(&self) -> Option<Redacted<Vec<u8>>> {
        let secret: Value = serde_json::from_str(self.secret_data.expose()).ok()?;
        let data: Value = serde_json::from_str(&self.credential_data).ok()?;
        let is = |name: &str, wanted: &Value| data.get(name) == Some(wanted);
        let is_ours = is("subType", &"totp".into())
            && is("digits", &6.into())
            && is("period", &30.into())
            && is("algorithm", &"HmacSHA1".into());
        // The bytes of the text are the secret, unless it says that it is in base32.
        let is_plain = data.get("secretEncoding").is_none_or(Value::is_null);
        let value = secret.get("value")?.as_str()?;
        (is_ours && is_plain && value.len() >= 16).then(|| Redacted::new(value.as_bytes().to_vec()))
    }
}

impl Client {
    /// As it is here, and what of it is not.
    fn imported(&self) -> Result<(ImportClient, Vec<String>), String> {
        if self
            .protocol
            .as_deref()
            .is_some_and(|protocol| protocol != "openid-connect")
        {
            return Err("only OpenID Connect is spoken here".to_owned());
        }
        if self.bearer_only {
            return Err("it only takes tokens: declare a service in the fleet file".to_owned());
        }
        if !self.standard_flow_enabled {
            return Err(match self.service_accounts_enabled {
                true => "it acts for itself: declare a service account in the fleet file",
                false => "it has no flow that there is here",
            }
            .to_owned());
        }
        let client_id = self.client_id.to_lowercase().parse::<ClientName>();
        let client_id = client_id.ok().filter(|id| id.as_str() == self.client_id);
        let client_id =
            client_id.ok_or("its id cannot be one here: a-z, 0-9 and `-._`, at most 128")?;
        let mut notes = Vec::new();
        if !self.enabled {
            return Err("it is disabled".to_owned());
        }
        if self.service_accounts_enabled {
            notes.push(
                "its service account: declare one of another name in the fleet file".to_owned(),
            );
        }
        let (redirect_uris, post_logout_redirect_uris) = (
            exact(&self.redirect_uris, &mut notes),
            exact(&self.post_logout(), &mut notes),
        );
        if redirect_uris.is_empty() {
            return Err(
                "it has no redirect URI without a wildcard: redirect URIs are compared whole here"
                    .to_owned(),
            );
        }
        let backchannel = self
            .attribute("backchannel.logout.url")
            .and_then(|uri| uri.parse().ok());
        let secret = self
            .secret
            .clone()
            .filter(|secret| !secret.expose().is_empty() && secret.expose() != MASK);
        let imported = ImportClient {
            profile: ClientProfile {
                display_name: self
                    .name
                    .clone()
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(|| self.client_id.clone()),
                kind: if self.public_client {
                    ClientKind::Public
                } else {
                    ClientKind::Confidential
                },
                redirect_uris,
                grants: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
                scopes: Vec::new(),
                workload: None,
                jwks: None,
                policy: ClientPolicy {
                    require_pushed_authorization_requests: self
                        .is_on("require.pushed.authorization.requests"),
                    dpop_bound_access_tokens: self.is_on("dpop.bound.access.tokens"),
                    consent: match self.consent_required {
                        true => ConsentRule::Required,
                        false => ConsentRule::Implied,
                    },
                    ..ClientPolicy::default()
                },
                signing: ClientSigning::default(),
                logout: ClientLogout {
                    backchannel_logout_session_required: backchannel.is_some()
                        && self.is_on("backchannel.logout.session.required"),
                    backchannel_logout_uri: backchannel,
                    post_logout_redirect_uris,
                },
            },
            secret: secret.filter(|_| !self.public_client),
            client_id,
        };
        Ok((imported, notes))
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).and_then(Value::as_str)
    }

    fn is_on(&self, name: &str) -> bool {
        self.attribute(name) == Some("true")
    }

    fn post_logout(&self) -> Vec<String> {
        let listed = self.attribute("post.logout.redirect.uris").unwrap_or("");
        let uris = listed
            .split("##")
            .filter(|uri| !uri.is_empty() && *uri != "-");
        uris.flat_map(|uri| match uri {
            // The same as for logins.
            "+" => self.redirect_uris.clone(),
            uri => vec![uri.to_owned()],
        })
        .collect()
    }
}

/// Names that more than one of the groups has, at whatever depth.
fn shared_names(groups: &[Group]) -> BTreeSet<String> {
    let (mut seen, mut shared) = (BTreeSet::new(), BTreeSet::new());
    let mut open: Vec<&Group> = groups.iter().collect();
    while let Some(group) = open.pop() {
        let name = name_of(&group.name);
        if !seen.insert(name.clone()) {
            shared.insert(name);
        }
        open.extend(&group.sub_groups);
    }
    shared
}

/// Those that can be compared whole.
fn exact(uris: &[String], notes: &mut Vec<String>) -> Vec<RedirectUri> {
    let mut kept = Vec::new();
    for uri in uris {
        match uri.parse::<RedirectUri>() {
            Ok(parsed) if !uri.contains('*') => kept.push(parsed),
            _ => notes.push(format!(
                "the redirect URI `{uri}`: only whole addresses are compared here"
            )),
        }
    }
    kept
}

/// Roles as they are called here, of those that can have a name.
fn role_names(realm: &[String], client: &BTreeMap<String, Vec<String>>) -> BTreeSet<RoleName> {
    let of_realm = realm.iter().filter_map(|role| role_name(None, role));
    let of_clients = client.iter().flat_map(|(client, roles)| {
        roles
            .iter()
            .filter_map(move |role| role_name(Some(client), role))
    });
    of_realm.chain(of_clients).collect()
}

/// `role`, or `client:role`.
fn role_name(client: Option<&str>, role: &str) -> Option<RoleName> {
    let name = match client {
        Some(client) => format!("{client}:{role}"),
        None => role.to_owned(),
    };
    let name = name_of(&name);
    let is_own = name.starts_with(OWN_ROLES);
    name.parse().ok().filter(|_| !is_own)
}

/// Text as names are written here.
fn name_of(text: &str) -> String {
    let lower = text.trim().to_lowercase();
    lower.replace([' ', '/'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An export of Keycloak 26.4.0, cut to what is read; `emil` and `dora doe` were added by hand.
    const REALM: &str = include_str!("realm.json");

    #[test]
    fn a_realm_is_read_with_what_can_be_moved() {
        let realm = read(REALM).unwrap();
        assert_eq!(realm.name, "acme");
        let texts = |names: &[RoleName]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&realm.roles), ["staff", "admin", "shop:refunds"]);
        let parents = |name: &str| realm.groups[&name.parse::<GroupName>().unwrap()].clone();
        assert_eq!(realm.groups.len(), 3);
        assert_eq!(parents("eu-sales"), ["eu".parse().unwrap()]);
        assert!(parents("eu").is_empty() && parents("sales").is_empty());
        let user = |name: &str| {
            let mut users = realm.users.iter();
            users.find(|user| user.username.as_str() == name).unwrap()
        };
        let hash = |name: &str| user(name).password_hash.as_ref().unwrap().expose().clone();
        let anna = user("anna@acme.example");
        assert_eq!(anna.profile.display_name.as_deref(), Some("Anna Arnold"));
        assert_eq!(
            texts(&anna.profile.roles),
            ["admin", "shop:refunds", "staff"],
            "with what is in composites, and by groups"
        );
        assert_eq!(anna.profile.groups, ["eu-sales".parse().unwrap()]);
        assert!(!anna.disabled && user("carla").disabled);
        for (name, kind, password) in [
            (
                "anna@acme.example",
                "$pbkdf2-sha512$i=210000$",
                "correct horse battery",
            ),
            (
                "bert",
                "$argon2id$v=19$m=7168,t=5,p=1$",
                "wrong mule capacitor",
            ),
            ("carla", "$pbkdf2-sha256$i=", "silent owl terminal"),
        ] {
            assert!(hash(name).starts_with(kind), "{}", hash(name));
            let is = |password: &str| {
                testudo_trust::verify_password(&Redacted::new(password.to_owned()), &hash(name))
            };
            assert!(is(password) && !is("another password"), "{name}");
        }
        assert_eq!(
            user("emil").totp.as_ref().unwrap().expose(),
            b"Zk3hX9pQ2rT7vB5nM8wL"
        );
        let shop = realm
            .clients
            .iter()
            .find(|client| client.client_id.as_str() == "shop");
        let shop = shop.unwrap();
        assert_eq!(
            shop.secret.as_ref().unwrap().expose(),
            "a-secret-of-the-shop-that-is-long"
        );
        assert_eq!(shop.profile.redirect_uris.len(), 1);
        assert_eq!(shop.profile.logout.post_logout_redirect_uris.len(), 2);
        assert!(shop.profile.logout.backchannel_logout_session_required);
        assert_eq!(realm.clients.len(), 2, "and a native one");
    }

    #[test]
    fn a_client_that_asked_its_users_still_does() {
        let rule = |text: &str| {
            let realm = read(text).unwrap();
            let mut clients = realm.clients.iter();
            let shop = clients.find(|client| client.client_id.as_str() == "shop");
            shop.unwrap().profile.policy.consent
        };
        assert_eq!(rule(REALM), ConsentRule::Implied);
        let (no, yes) = ("\"consentRequired\": false", "\"consentRequired\": true");
        assert_eq!(rule(&REALM.replace(no, yes)), ConsentRule::Required);
    }

    #[test]
    fn what_cannot_be_moved_is_named() {
        let realm = read(REALM).unwrap();
        let left = realm
            .left_out
            .iter()
            .map(|left| (left.kind, left.name.as_str()));
        assert_eq!(
            left.collect::<Vec<_>>(),
            [
                ("role", "testudo-admin"),
                ("user", "service-account-robot"),
                ("membership", "emil"),
                ("credential", "emil"),
                ("user", "dora doe"),
                ("client", "legacy"),
                ("client", "robot"),
                ("part of a client", "shop"),
                ("part of a client", "shop"),
                ("client", "wild"),
            ]
        );
    }

    #[test]
    fn what_is_no_realm_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"realm":7}"#,
            r#"{"realm":"x","users":{}}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read(r#"{"realm":"x"}"#).unwrap().users.is_empty());
    }
}
