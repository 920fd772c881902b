//! Users as resources.

use serde_json::{Map, Value, json};
use testudo_model::{GroupName, Redacted, UserId, Username};
use testudo_store::Versioned;

use super::{
    Expectation, Provisioner, Stamps, error::ScimError, groups::GroupLookup,
    patch::read_operations, schema::ResourceType, values::read_resource,
};
use crate::{
    Fault, NewPassword, Provider,
    admin::PasswordChange,
    change::{Change, until_settled},
    limits::MAX_MAIL_ADDRESSES,
    password::Owner,
    records::{MailAddress, PersonName, Provisioned, User},
};

impl Provider {
    /// A user as a resource.
    pub(super) fn user_resource(
        &self,
        stored: &Versioned<User>,
        groups: &mut GroupLookup,
    ) -> Result<Value, Fault> {
        let user = &stored.record;
        let base = self.scim_base();
        let mut resource = writable(user);
        let memberships = self.memberships_shown(&user.groups, groups)?;
        if !memberships.is_empty() {
            resource.insert("groups".to_owned(), Value::Array(memberships));
        }
        let stamps = Stamps {
            id: user.id.as_str(),
            created_at: user.created_at,
            updated_at: user.updated_at,
            version: stored.version,
        };
        stamps.put_on(&mut resource, ResourceType::User, &base);
        Ok(Value::Object(resource))
    }

    /// The groups of a user, those they are in themselves first.
    fn memberships_shown(
        &self,
        own: &[GroupName],
        groups: &mut GroupLookup,
    ) -> Result<Vec<Value>, Fault> {
        let base = self.scim_base();
        let mut shown = Vec::new();
        let mut order = own.to_vec();
        let mut next = 0;
        while let Some(name) = order.get(next).cloned() {
            next += 1;
            let Some(group) = groups.get(self, &name)? else {
                continue;
            };
            let kind = if own.contains(&name) {
                "direct"
            } else {
                "indirect"
            };
            shown.push(json!({
                "value": group.id,
                "$ref": format!("{base}/Groups/{}", group.id),
                "display": group.display_name.as_deref().unwrap_or(group.name.as_str()),
                "type": kind,
            }));
            let around = group.parents.clone();
            order.extend(
                around
                    .into_iter()
                    .filter(|name| !order.contains(name))
                    .collect::<Vec<_>>(),
            );
        }
        Ok(shown)
    }

    pub(super) fn scim_user(&self, id: &str) -> Result<Value, ScimError> {
        let stored = self.stored_scim_user(id)?;
        Ok(self.user_resource(&stored, &mut GroupLookup::default())?)
    }

    fn stored_scim_user(&self, id: &str) -> Result<Versioned<User>, ScimError> {
        let not_found = || ScimError::not_found("user");
        let id: UserId = id.parse().map_err(|_| not_found())?;
        self.tenant.get::<User>(id.as_str())?.ok_or_else(not_found)
    }

    pub(super) fn create_scim_user(
        &self,
        body: &Value,
        by: &Provisioner,
    ) -> Result<Value, ScimError> {
        let draft = Draft::of(read_resource(ResourceType::User, body)?)?;
        let hash = match self.password_change(&draft)? {
            PasswordChange::Set(hash) => Some(hash),
            PasswordChange::Keep | PasswordChange::Remove => None,
        };
        let id = until_settled(|| {
            let user = draft.applied(self.blank_user(&draft.username));
            let report = self
                .user_report("user.create", &user)
                .detail("source", "scim");
            let change = self.stage_creation(&user, hash.clone())?;
            let done = change.report(report, &by.caller).commit()?;
            Ok::<_, ScimError>(done.then_some(user.id))
        })?;
        self.scim_user(id.as_str())
    }

    pub(super) fn replace_scim_user(
        &self,
        id: &str,
        body: &Value,
        expected: Expectation<'_>,
        by: &Provisioner,
    ) -> Result<Value, ScimError> {
        let draft = Draft::of(read_resource(ResourceType::User, body)?)?;
        let password = self.password_change(&draft)?;
        until_settled(|| {
            let stored = self.stored_scim_user(id)?;
            expected.check(stored.version)?;
            self.settle_scim_user(&stored, &draft, password.clone(), by)
        })?;
        self.scim_user(id)
    }

    pub(super) fn patch_scim_user(
        &self,
        id: &str,
        body: &Value,
        expected: Expectation<'_>,
        by: &Provisioner,
    ) -> Result<Value, ScimError> {
        let operations = read_operations(ResourceType::User, body)?;
        let patched = |user: &User| {
            let mut resource = writable(user);
            for operation in &operations {
                operation.apply(&mut resource)?;
            }
            Draft::of(resource)
        };
        // One hash, however often it is tried.
        let password = self.password_change(&patched(&self.stored_scim_user(id)?.record)?)?;
        until_settled(|| {
            let stored = self.stored_scim_user(id)?;
            expected.check(stored.version)?;
            let draft = patched(&stored.record)?;
            self.settle_scim_user(&stored, &draft, password.clone(), by)
        })?;
        self.scim_user(id)
    }

    pub(super) fn delete_scim_user(
        &self,
        id: &str,
        expected: Expectation<'_>,
        by: &Provisioner,
    ) -> Result<(), ScimError> {
        until_settled(|| {
            let stored = self.stored_scim_user(id)?;
            expected.check(stored.version)?;
            // A later user of the name would get from the fleet file what this one has.
            self.refuse_reserved(&stored.record, by)?;
            let report = self
                .user_report("user.delete", &stored.record)
                .detail("source", "scim");
            let change = self.stage_user_deletion(&stored)?;
            Ok(change.report(report, &by.caller).commit()?.then_some(()))
        })
    }

    /// Makes a user what `draft` says, in one attempt. Nothing is written if they are that already.
    fn settle_scim_user(
        &self,
        stored: &Versioned<User>,
        draft: &Draft,
        password: PasswordChange,
        by: &Provisioner,
    ) -> Result<Option<()>, ScimError> {
        let before = &stored.record;
        let same = draft.applied(before.clone());
        let keeps_password = matches!(password, PasswordChange::Keep);
        // By what is shown: a mail address may be known from elsewhere.
        let shown = writable(before);
        if writable(&same) == shown && keeps_password {
            return Ok(Some(()));
        }
        let as_before = User {
            disabled: before.disabled,
            ..same.clone()
        };
        let is_only_shut_out = same.disabled && keeps_password && writable(&as_before) == shown;
        if !is_only_shut_out {
            self.refuse_reserved(before, by)?;
        }
        let after = User {
            updated_at: self.clock.now(),
            ..same
        };
        let change = self.stage_user(self.change(), stored, &after, password)?;
        let change = match keeps_password {
            true => change,
            false => change.write_of_new_password(before, &by.caller),
        };
        let change = self.report_scim_user(change, before, &after, !keeps_password, by);
        Ok(change.commit()?.then_some(()))
    }

    fn report_scim_user<'p>(
        &self,
        change: Change<'p>,
        before: &User,
        after: &User,
        has_new_password: bool,
        by: &Provisioner,
    ) -> Change<'p> {
        let mut reports = vec![self.user_report("user.update", after)];
        if after.disabled && !before.disabled {
            reports.push(self.user_report("user.disable", after));
        }
        if before.disabled && !after.disabled {
            reports.push(self.user_report("user.enable", after));
        }
        if has_new_password {
            reports.push(self.user_report("user.password", after));
        }
        reports.into_iter().fold(change, |change, report| {
            change.report(report.detail("source", "scim"), &by.caller)
        })
    }

    /// Refuses to change whoever has something reserved: who could set an administrator's password would be one.
    fn refuse_reserved(&self, user: &User, by: &Provisioner) -> Result<(), ScimError> {
        let Some(reserved) = &by.reserved else {
            return Ok(());
        };
        if reserved.names(user.id.as_str())
            || self.has_reserved(reserved, &user.roles, &user.groups)?
        {
            return Err(ScimError::forbidden(
                "an administrator is changed by administrators; deactivating one is all that is allowed",
            ));
        }
        Ok(())
    }

    fn password_change(&self, draft: &Draft) -> Result<PasswordChange, ScimError> {
        match &draft.password {
            None => Ok(PasswordChange::Keep),
            Some(None) => Ok(PasswordChange::Remove),
            Some(Some(password)) => {
                let password = NewPassword::Given(password.clone());
                let owner = Owner {
                    username: Some(&draft.username),
                    display_name: draft.display_name.as_deref(),
                    email: draft.email.as_deref(),
                };
                let (hash, _) = password.realise(self, owner)?;
                Ok(hash.map_or(PasswordChange::Keep, PasswordChange::Set))
            }
        }
    }
}

/// The attributes that a client may write and read.
fn writable(user: &User) -> Map<String, Value> {
    let Provisioned {
        external_id,
        name,
        emails,
    } = &user.provisioned;
    let mut resource = Map::new();
    let mut put = |name: &str, value: Value| {
        let is_empty = match &value {
            Value::Null => true,
            Value::Array(values) => values.is_empty(),
            Value::Object(parts) => parts.is_empty(),
            _ => false,
        };
        if !is_empty {
            resource.insert(name.to_owned(), value);
        }
    };
    put("userName", json!(user.username));
    put("externalId", json!(external_id));
    put("displayName", json!(user.display_name));
    put("active", json!(!user.disabled));
    let parts = [
        ("formatted", &name.formatted),
        ("familyName", &name.family),
        ("givenName", &name.given),
    ];
    put(
        "name",
        object(parts.map(|(name, part)| (name, json!(part)))),
    );
    // What somebody else has said since is what counts.
    let is_known = |email: &String| emails.iter().any(|known| known.value == *email);
    let shown = match &user.email {
        None => Vec::new(),
        Some(email) if is_known(email) => emails.iter().map(mail_resource).collect(),
        Some(email) => vec![json!({ "value": email, "primary": true })],
    };
    put("emails", Value::Array(shown));
    resource
}

fn mail_resource(address: &MailAddress) -> Value {
    object([
        ("value", json!(address.value)),
        ("type", json!(address.kind)),
        ("primary", json!(address.primary)),
    ])
}

fn object<const N: usize>(parts: [(&str, Value); N]) -> Value {
    let parts = parts.into_iter().filter(|(_, part)| !part.is_null());
    Value::Object(parts.map(|(name, part)| (name.to_owned(), part)).collect())
}

/// What a client wants a user to be.
struct Draft {
    username: Username,
    display_name: Option<String>,
    email: Option<String>,
    is_active: bool,
    provisioned: Provisioned,
    /// None: it stays. Some of none: it goes.
    password: Option<Option<Redacted<String>>>,
}

impl Draft {
    fn of(resource: Map<String, Value>) -> Result<Self, ScimError> {
        let text = |name: &str| {
            resource
                .get(name)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let username = text("userName").ok_or_else(|| ScimError::value("`userName` is missing"))?;
        // Not case exact (RFC 7643 section 4.1.1), and kept in one.
        let username: Username = username
            .to_lowercase()
            .parse()
            .map_err(|error| ScimError::value(format!("`userName`: {error}")))?;
        let emails = mail_addresses(resource.get("emails"))?;
        let primary = emails.iter().find(|email| email.primary == Some(true));
        let email = primary.or(emails.first()).map(|email| email.value.clone());
        let part = |name: &str| {
            let part = resource.get("name").and_then(|parts| parts.get(name));
            part.and_then(Value::as_str).map(str::to_owned)
        };
        Ok(Self {
            username,
            display_name: text("displayName"),
            email,
            is_active: resource.get("active") != Some(&Value::Bool(false)),
            provisioned: Provisioned {
                external_id: text("externalId"),
                name: PersonName {
                    formatted: part("formatted"),
                    family: part("familyName"),
                    given: part("givenName"),
                },
                emails,
            },
            password: match resource.get("password") {
                None => None,
                Some(Value::String(password)) => Some(Some(Redacted::new(password.clone()))),
                Some(_) => Some(None),
            },
        })
    }

    /// `user` as this draft says.
    fn applied(&self, user: User) -> User {
        User {
            username: self.username.clone(),
            display_name: self.display_name.clone(),
            disabled: !self.is_active,
            provisioned: self.provisioned.clone(),
            ..user.with_email(self.email.clone())
        }
    }
}

fn mail_addresses(given: Option<&Value>) -> Result<Vec<MailAddress>, ScimError> {
    let given = given.and_then(Value::as_array).map(Vec::as_slice);
    let given = given.unwrap_or_default();
    if given.len() > MAX_MAIL_ADDRESSES {
        let count = given.len();
        let why = format!("`emails` has {count} values, {MAX_MAIL_ADDRESSES} are allowed");
        return Err(ScimError::value(why));
    }
    let mut addresses = Vec::with_capacity(given.len());
    for one in given {
        let text = |name: &str| one.get(name).and_then(Value::as_str).map(str::to_owned);
        let value = text("value").filter(|value| {
            let parts = value.rsplit_once('@');
            let is_whole =
                parts.is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
            is_whole && !value.contains(char::is_whitespace)
        });
        let value = value
            .ok_or_else(|| ScimError::value("`emails` has a value that is no mail address"))?;
        addresses.push(MailAddress {
            value,
            kind: text("type"),
            primary: one.get("primary").and_then(Value::as_bool),
        });
    }
    Ok(addresses)
}
