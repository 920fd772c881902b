//! Checks of groups, users, service accounts and OAuth clients.

use std::collections::BTreeSet;

use testudo_model::{GroupName, RoleName, ServiceName, SpiffeId};

use super::{
    GrantType, SeedAuthentication, SeedClient, SeedServiceAccount, SeedUser, SignatureAlgorithm,
    check::Context,
    document::Cursor,
    file::{ClientKind, ClientSection, FleetFile, ServiceAccountSection, UserSection},
    problem::Problems,
    secret::SecretReference,
    services::MAX_PERCENT,
    signals, trusted_issuers,
};

/// Client id of `testudo login`; it is built in.
const BUILT_IN_CLIENT: &str = "cli";
/// Longest redirect URI.
const MAX_REDIRECT_BYTES: usize = 2048;
/// Longest display name or mail address.
const MAX_TEXT_BYTES: usize = 256;

/// Everybody a fleet file declares.
pub(super) struct Everybody {
    pub(super) users: Vec<SeedUser>,
    pub(super) service_accounts: Vec<SeedServiceAccount>,
    pub(super) clients: Vec<SeedClient>,
}

pub(super) fn check(
    file: &FleetFile,
    tree: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Everybody {
    report_repeated_roles(&file.roles, tree.key("roles"), context.problems);
    check_groups(file, tree.key("groups"), context);
    let users = file.users.iter().map(|(username, section)| {
        let at = tree.key("users").key(username.as_str());
        let UserSection {
            name,
            email,
            email_verified,
            groups,
            roles,
            clearance,
            disabled,
            password,
        } = section;
        check_membership(groups, roles, *clearance, at, context);
        check_text("name", name.as_deref(), at, context.problems);
        check_text("email", email.as_deref(), at, context.problems);
        if email.as_ref().is_some_and(|email| !email.contains('@')) {
            context.problems.error(
                "fleet.email",
                at.key("email").place(),
                "this is not a mail address",
            );
        }
        SeedUser {
            username: username.clone(),
            name: name.clone(),
            email: email.clone(),
            email_verified: email_verified.filter(|_| email.is_some()),
            groups: groups.clone(),
            roles: roles.clone(),
            clearance: i64::from(*clearance),
            disabled: *disabled,
            password: context.credential(password.as_ref(), at.key("password")),
        }
    });
    let users = users.collect();
    let service_accounts = service_accounts(file, tree, context);
    let clients = clients(file, tree, context);
    Everybody {
        users,
        service_accounts,
        clients,
    }
}

fn service_accounts(
    file: &FleetFile,
    tree: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Vec<SeedServiceAccount> {
    let accounts = file.service_accounts.iter().map(|(name, section)| {
        let at = tree.key("service_accounts").key(name.as_str());
        let ServiceAccountSection {
            groups,
            roles,
            clearance,
            disabled,
            scopes,
            secret,
            spiffe,
            jwks,
            external,
            signals,
        } = section;
        check_membership(groups, roles, *clearance, at, context);
        if name.as_str() == BUILT_IN_CLIENT {
            report_built_in(at, context.problems);
        }
        if let Some(signals) = signals {
            signals::check(signals, at.key("signals"), context.problems);
        }
        SeedServiceAccount {
            name: name.clone(),
            groups: groups.clone(),
            roles: roles.clone(),
            clearance: i64::from(*clearance),
            disabled: *disabled,
            scopes: scopes.clone(),
            authentication: external.is_empty().then(|| {
                let credentials = Credentials {
                    secret: secret.as_ref(),
                    spiffe: spiffe.as_ref(),
                    jwks: jwks.as_ref(),
                };
                authentication(file, credentials, at, context)
            }),
            external: trusted_issuers::external(section, at, context),
            signals: signals.clone(),
        }
    });
    accounts.collect()
}

fn clients(file: &FleetFile, tree: Cursor<'_>, context: &mut Context<'_, '_>) -> Vec<SeedClient> {
    let clients = file.clients.iter().map(|(name, section)| {
        let at = tree.key("clients").key(name.as_str());
        if name.as_str() == BUILT_IN_CLIENT {
            report_built_in(at, context.problems);
        }
        if file.service_accounts.contains_key(name) {
            context
                .problems
                .error(
                    "fleet.duplicate_client",
                    at.key_place(),
                    format!("`{name}` is a service account already"),
                )
                .why("a service account's name is its client id")
                .help("choose another name for one of them");
        }
        check_client(section, at, context.problems);
        if section.fapi2_security_profile {
            check_fapi2(section, at, context.problems);
        }
        check_logout(section, file.outbound.allow_http, at, context.problems);
        let is_confidential = section.kind == ClientKind::Confidential;
        SeedClient {
            name: name.clone(),
            redirect_uris: section.redirect_uris.clone(),
            grant_types: section.grant_types.clone(),
            scopes: section.scopes.clone(),
            require_pushed_authorization_requests: section.require_pushed_authorization_requests,
            require_signed_request_object: section.require_signed_request_object,
            dpop_bound_access_tokens: section.dpop_bound_access_tokens,
            pkce_optional: section.pkce_optional,
            id_token_signed_response_alg: section.id_token_signed_response_alg,
            userinfo_signed_response_alg: section.userinfo_signed_response_alg,
            fapi2_security_profile: section.fapi2_security_profile,
            consent: section.consent,
            post_logout_redirect_uris: section.post_logout_redirect_uris.clone(),
            backchannel_logout_uri: section.backchannel_logout_uri.clone(),
            backchannel_logout_session_required: section.backchannel_logout_session_required,
            authentication: is_confidential.then(|| {
                authentication(
                    file,
                    Credentials {
                        secret: section.secret.as_ref(),
                        spiffe: section.spiffe.as_ref(),
                        jwks: section.jwks.as_ref(),
                    },
                    at,
                    context,
                )
            }),
        }
    });
    clients.collect()
}

fn check_client(section: &ClientSection, at: Cursor<'_>, problems: &mut Problems<'_>) {
    let uris = at.key("redirect_uris");
    check_redirect_uris(&section.redirect_uris, uris, problems);
    let has = |grant: GrantType| section.grant_types.contains(&grant);
    if has(GrantType::AuthorizationCode) && section.redirect_uris.is_empty() && !uris.is_damaged() {
        problems
            .error(
                "fleet.redirect_uri",
                at.place(),
                "a client with the authorization code grant needs `redirect_uris`",
            )
            .help("add where the browser may return to, or other `grant_types`");
    }
    let gives_refresh_tokens = has(GrantType::AuthorizationCode) || has(GrantType::DeviceCode);
    if has(GrantType::RefreshToken) && !gives_refresh_tokens {
        problems
            .error(
                "fleet.grant_types",
                at.key("grant_types").place(),
                "there is no grant that gives refresh tokens",
            )
            .help("add `authorization_code` or `device_code`, or remove `refresh_token`");
    }
    if section.require_signed_request_object && section.jwks.is_none() {
        problems
            .error(
                "fleet.signed_requests",
                at.key("require_signed_request_object").place(),
                "nothing says with which key this client signs its requests",
            )
            .help("add `jwks`, or remove `require_signed_request_object`");
    }
    if section.kind == ClientKind::Public {
        if has(GrantType::ClientCredentials) {
            problems
                .error(
                    "fleet.grant_types",
                    at.key("grant_types").place(),
                    "a public client has no credentials",
                )
                .help("add `kind = \"confidential\"` or remove `client_credentials`");
        }
        if section.pkce_optional {
            problems
                .error(
                    "fleet.public_client_pkce",
                    at.key("pkce_optional").place(),
                    "a public client must use PKCE",
                )
                .why("whoever catches its code could redeem it")
                .help("remove `pkce_optional`, or add `kind = \"confidential\"`");
        }
        for key in ["secret", "spiffe", "jwks"]
            .into_iter()
            .filter(|key| at.key(key).is_written())
        {
            problems
                .error(
                    "fleet.public_client_secret",
                    at.key(key).place(),
                    "a public client cannot prove who it is",
                )
                .help(format!("add `kind = \"confidential\"` or remove `{key}`"));
        }
    }
}

/// FAPI 2.0 Security Profile section 5.3.
fn check_fapi2(section: &ClientSection, at: Cursor<'_>, problems: &mut Problems<'_>) {
    let why = "the FAPI 2.0 Security Profile asks for it";
    let profile = at.key("fapi2_security_profile").place();
    if section.kind == ClientKind::Public {
        problems
            .error("fleet.fapi", profile, "this is a public client")
            .why(why)
            .help("add `kind = \"confidential\"` and `jwks`, or remove `fapi2_security_profile`");
    } else if section.jwks.is_none() && section.spiffe.is_none() {
        problems
            .error(
                "fleet.fapi",
                profile,
                "this client proves itself with a secret",
            )
            .why(why)
            .help("give it `jwks` or `spiffe`");
    }
    for (key, is_weaker) in [
        ("pkce_optional", section.pkce_optional),
        (
            "id_token_signed_response_alg",
            section.id_token_signed_response_alg == SignatureAlgorithm::Rs256,
        ),
        (
            "userinfo_signed_response_alg",
            section.userinfo_signed_response_alg == Some(SignatureAlgorithm::Rs256),
        ),
    ] {
        if is_weaker {
            problems
                .error("fleet.fapi", at.key(key).place(), "this is weaker")
                .why("the FAPI 2.0 Security Profile asks for PKCE and for ES256")
                .help(format!("remove `{key}`"));
        }
    }
    let uris = at.key("redirect_uris");
    for (index, uri) in section.redirect_uris.iter().enumerate() {
        if !uri.starts_with("https://") {
            problems
                .error(
                    "fleet.fapi",
                    uris.index(index).place(),
                    "this redirect URI is not `https`",
                )
                .why(why)
                .help("write an address that begins with `https://`");
        }
    }
}

fn check_redirect_uris(uris: &[String], at: Cursor<'_>, problems: &mut Problems<'_>) {
    for (index, uri) in uris.iter().enumerate() {
        if let Err(why) = check_redirect_uri(uri) {
            problems
                .error(
                    "fleet.redirect_uri",
                    at.index(index).place(),
                    "this cannot be a redirect URI",
                )
                .why(why)
                .help("write the exact address, such as `https://shop.example/callback`");
        }
    }
}

fn check_logout(
    section: &ClientSection,
    allow_http: bool,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    check_redirect_uris(
        &section.post_logout_redirect_uris,
        at.key("post_logout_redirect_uris"),
        problems,
    );
    let Some(uri) = &section.backchannel_logout_uri else {
        return;
    };
    let place = at.key("backchannel_logout_uri");
    let host = |scheme: &str| {
        let rest = uri.strip_prefix(scheme)?;
        rest.split(['/', '?']).next()
    };
    let is_plain = uri.len() <= MAX_REDIRECT_BYTES
        && uri.bytes().all(|byte| byte.is_ascii_graphic())
        && !uri.contains(['#', '\\', '"', '<', '>']);
    let is_called = |host: &str| is_plain && !host.is_empty() && !host.contains('@');
    if host("https://").is_some_and(is_called) {
        return;
    }
    if host("http://").is_some_and(is_called) {
        if !allow_http {
            problems
                .error(
                    "fleet.backchannel_logout_uri",
                    place.place(),
                    "this address is not https",
                )
                .why("who is on the way could keep the logout back")
                .help("use https; for development set `outbound.allow_http = true`");
        }
        return;
    }
    problems
        .error(
            "fleet.backchannel_logout_uri",
            place.place(),
            "this is no address that can be called",
        )
        .help("write the exact address, such as `https://shop.example/logout`");
}

/// RFC 6749 section 3.1.2, RFC 8252 sections 7 and 8.4, RFC 9700 section 4.1.
fn check_redirect_uri(uri: &str) -> Result<(), &'static str> {
    if uri.len() > MAX_REDIRECT_BYTES {
        return Err("it is longer than 2048 bytes");
    }
    if !uri.bytes().all(|byte| byte.is_ascii_graphic()) || uri.contains(['\\', '"', '<', '>', '*'])
    {
        return Err("it has a character that does not belong there; wildcards do not exist");
    }
    if uri.contains('#') {
        return Err("it has a fragment");
    }
    let (scheme, rest) = uri.split_once(':').ok_or("it has no scheme")?;
    let authority = rest
        .strip_prefix("//")
        .map(|rest| rest.split(['/', '?']).next().unwrap_or(""));
    match (scheme, authority) {
        ("https" | "http", None | Some("")) => Err("it has no host"),
        (_, Some(authority)) if authority.contains('@') => {
            Err("it has a user name in front of the host")
        }
        ("https", Some(_)) => Ok(()),
        ("http", Some(authority)) if is_loopback_authority(authority) => Ok(()),
        ("http", Some(_)) => Err(
            "without TLS the code can be read on the way; `http` is for 127.0.0.1 and [::1] only",
        ),
        // A private-use scheme is a domain name in reverse (RFC 8252 section 7.1).
        (scheme, _) if scheme.contains('.') && !rest.is_empty() => Ok(()),
        _ => {
            Err("its scheme is neither `https` nor an application's own such as `com.example.app`")
        }
    }
}

fn is_loopback_authority(authority: &str) -> bool {
    let host = match authority.strip_prefix("[::1]") {
        Some(port) => return port.is_empty() || port.starts_with(':'),
        None => authority.split(':').next().unwrap_or(""),
    };
    matches!(host, "127.0.0.1" | "localhost")
}

/// What a confidential client or service account may prove itself with, of which it needs one.
#[derive(Clone, Copy)]
struct Credentials<'a> {
    secret: Option<&'a SecretReference>,
    spiffe: Option<&'a ServiceName>,
    jwks: Option<&'a String>,
}

fn authentication(
    file: &FleetFile,
    credentials: Credentials<'_>,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> SeedAuthentication {
    let Credentials {
        secret,
        spiffe,
        jwks,
    } = credentials;
    let better = match (spiffe, jwks) {
        (Some(_), _) => "spiffe",
        (None, _) => "jwks",
    };
    let surplus = [
        ("jwks", spiffe.is_some() && jwks.is_some()),
        (
            "secret",
            secret.is_some() && (spiffe.is_some() || jwks.is_some()),
        ),
    ];
    for (key, _) in surplus.into_iter().filter(|(_, is_there)| *is_there) {
        context
            .problems
            .error(
                "fleet.two_credentials",
                at.key(key).place(),
                format!("there is a `{key}` beside `{better}`"),
            )
            .why("the weaker of the two would decide")
            .help(format!("remove `{key}`: `{better}` is enough"));
    }
    let service = match (spiffe, jwks) {
        (Some(service), _) => service,
        (None, Some(jwks)) => return SeedAuthentication::Keys(jwks.clone()),
        (None, None) => {
            return SeedAuthentication::Secret(context.credential(secret, at.key("secret")));
        }
    };
    context.expect_declared(
        "services",
        "service",
        service.as_str(),
        at.key("spiffe").place(),
    );
    let id: SpiffeId = file.trust_domain.service(service);
    SeedAuthentication::Workload(id)
}

fn check_membership(
    groups: &[GroupName],
    roles: &[RoleName],
    clearance: u8,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) {
    for (index, group) in groups.iter().enumerate() {
        context.expect_declared(
            "groups",
            "group",
            group.as_str(),
            at.key("groups").index(index).place(),
        );
    }
    for (index, role) in roles.iter().enumerate() {
        context.expect_declared(
            "roles",
            "role",
            role.as_str(),
            at.key("roles").index(index).place(),
        );
    }
    if clearance > MAX_PERCENT {
        let message = format!("a clearance is 0 to {MAX_PERCENT}");
        context
            .problems
            .error("fleet.out_of_range", at.key("clearance").place(), message);
    }
}

fn check_text(key: &str, text: Option<&str>, at: Cursor<'_>, problems: &mut Problems<'_>) {
    let Some(text) = text else { return };
    if text.is_empty() || text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        let message = format!("`{key}` has 1 to {MAX_TEXT_BYTES} bytes and no control characters");
        problems.error("fleet.invalid_value", at.key(key).place(), message);
    }
}

fn report_repeated_roles(roles: &[RoleName], at: Cursor<'_>, problems: &mut Problems<'_>) {
    let mut seen = BTreeSet::new();
    for (index, role) in roles.iter().enumerate() {
        if !seen.insert(role) {
            problems.error(
                "fleet.duplicate_role",
                at.index(index).place(),
                format!("`{role}` is listed twice"),
            );
        }
    }
}

fn report_built_in(at: Cursor<'_>, problems: &mut Problems<'_>) {
    problems
        .error(
            "fleet.reserved_name",
            at.key_place(),
            format!("`{BUILT_IN_CLIENT}` is the client of `testudo login`"),
        )
        .help("it is built in; remove the section or choose another name");
}

/// Every group that is named exists, and no group is in itself, however indirectly.
fn check_groups(file: &FleetFile, at: Cursor<'_>, context: &mut Context<'_, '_>) {
    for (group, parents) in &file.groups {
        let parents_at = at.key(group.as_str());
        for (index, parent) in parents.iter().enumerate() {
            context.expect_declared(
                "groups",
                "group",
                parent.as_str(),
                parents_at.index(index).place(),
            );
        }
        if is_in_itself(file, group) {
            context
                .problems
                .error(
                    "fleet.group_cycle",
                    parents_at.place(),
                    format!("the group `{group}` is in itself"),
                )
                .help("take one of the groups out of the circle");
        }
    }
}

fn is_in_itself(file: &FleetFile, group: &GroupName) -> bool {
    let parents = |group: &GroupName| file.groups.get(group).map_or(&[][..], Vec::as_slice);
    let mut seen = BTreeSet::new();
    let mut open: Vec<&GroupName> = parents(group).iter().collect();
    while let Some(ancestor) = open.pop() {
        if ancestor == group {
            return true;
        }
        if seen.insert(ancestor) {
            open.extend(parents(ancestor));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::check_redirect_uri;

    #[test]
    fn redirect_uris_are_exact_and_protected() {
        for good in [
            "https://shop.example/callback",
            "https://shop.example/callback?x=1",
            "http://127.0.0.1/callback",
            "http://127.0.0.1:8080/callback",
            "http://[::1]:8080/",
            "com.example.app:/callback",
        ] {
            assert_eq!(check_redirect_uri(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/callback",
            "https://",
            "https:shop.example",
            "http://shop.example/callback",
            "http://127.0.0.1.evil.example/",
            "http://[::1].evil.example/",
            "https://shop.example@evil.example/",
            "https://shop.example/#x",
            "https://*.shop.example/",
            "https://shop.example/\\@evil.example",
            "https://shop example/",
            "javascript:alert(1)",
            "data:text/html,x",
        ] {
            assert!(check_redirect_uri(bad).is_err(), "{bad}");
        }
    }
}
