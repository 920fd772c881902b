//! `testudo user`, `testudo client` and `testudo session`.

use std::time::Duration;

use serde_json::{Value, json};
use testudo_controlplane::Redacted;

use super::{Invocation, login::read_password};
use crate::{
    cli::{IdentityProviderCommand, PageArguments, SessionCommand, UserCommand},
    failure::Outcome,
    output::{field, say, table},
};

/// `testudo user …`.
pub async fn user(invocation: &Invocation, command: UserCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    match command {
        UserCommand::List(page) => list(invocation, page).await,
        UserCommand::Show { username } => {
            let user: Value = connection
                .get(&format!("/api/v1/users/{}", segment(&username)))
                .await?;
            Ok(invocation.output.value(&user, |user| format!("{user:#}"))?)
        }
        UserCommand::Create {
            username,
            display_name,
            email,
            email_verified,
            groups,
            roles,
            no_password,
        } => {
            let password = match no_password {
                true => None,
                false => Some(read_password(&format!("Password for {username}: "))?),
            };
            let body = json!({
                "username": username,
                "display_name": display_name,
                "email": email,
                "email_verified": email_verified,
                "groups": groups,
                "roles": roles,
                "password": password.as_ref().map(Redacted::expose),
            });
            let user: Value = connection.call("POST", "/api/v1/users", &body).await?;
            Ok(invocation
                .output
                .done(&user, format!("{username} is created"))?)
        }
        UserCommand::Delete { username } => {
            let path = format!("/api/v1/users/{}", segment(&username));
            let deleted: Value = connection.call("DELETE", &path, &json!({})).await?;
            let done = format!("{username} is deleted; all sessions and tokens have ended");
            Ok(invocation.output.done(&deleted, done)?)
        }
        UserCommand::Disable { username } => set(invocation, &username, "disable").await,
        UserCommand::Enable { username } => set(invocation, &username, "enable").await,
        UserCommand::Invite { username, ttl } => invite(invocation, &username, ttl).await,
        UserCommand::Passkeys { username } => passkeys(invocation, &username).await,
        UserCommand::RemovePasskey { username, passkey } => {
            let (user, id) = (segment(&username), segment(&passkey));
            let path = format!("/api/v1/users/{user}/passkeys/{id}");
            let removed: Value = connection.call("DELETE", &path, &json!({})).await?;
            let done = format!("{username} cannot log in with that passkey any more");
            Ok(invocation.output.done(&removed, done)?)
        }
        UserCommand::Links { username } => links(invocation, &username).await,
        UserCommand::Connect {
            username,
            identity_provider,
            subject,
        } => {
            let path = format!("/api/v1/users/{}/links", segment(&username));
            let body = json!({ "identity_provider": identity_provider, "subject": subject });
            let made: Value = connection.call("POST", &path, &body).await?;
            let done = format!("{subject} at {identity_provider} logs in as {username}");
            Ok(invocation.output.done(&made, done)?)
        }
        UserCommand::Disconnect { username, link } => {
            let (user, id) = (segment(&username), segment(&link));
            let path = format!("/api/v1/users/{user}/links/{id}");
            let removed: Value = connection.call("DELETE", &path, &json!({})).await?;
            let done = format!("that account does not log in as {username} any more");
            Ok(invocation.output.done(&removed, done)?)
        }
        UserCommand::ResetSecondFactor { username } => {
            let path = format!("/api/v1/users/{}/reset-second-factor", segment(&username));
            let user: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("{username} logs in with the password alone again");
            Ok(invocation.output.done(&user, done)?)
        }
        UserCommand::VerifyEmail { username } => {
            let path = format!("/api/v1/users/{}/verify-email", segment(&username));
            let user: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("the mail address of {username} counts as theirs");
            Ok(invocation.output.done(&user, done)?)
        }
        UserCommand::Password { username } => {
            let password = read_password(&format!("New password for {username}: "))?;
            let path = format!("/api/v1/users/{}/password", segment(&username));
            let body = json!({ "password": password.expose() });
            let user: Value = connection.call("PUT", &path, &body).await?;
            let done = format!("the password of {username} is set; its sessions are revoked");
            Ok(invocation.output.done(&user, done)?)
        }
    }
}

async fn list(invocation: &Invocation, page: PageArguments) -> Outcome {
    let connection = invocation.context.admin().await?;
    let users: Value = connection.get(&paged("/api/v1/users", &page)).await?;
    invocation.output.list(&users, |users| {
        let fields = ["/username", "/groups", "/roles", "/disabled", "/id"];
        table(
            &["USERNAME", "GROUPS", "ROLES", "DISABLED", "ID"],
            &rows(users, &fields),
        )
    })?;
    Ok(())
}

async fn set(invocation: &Invocation, username: &str, verb: &str) -> Outcome {
    let connection = invocation.context.admin().await?;
    let path = format!("/api/v1/users/{}/{verb}", segment(username));
    let user: Value = connection.call("POST", &path, &json!({})).await?;
    Ok(invocation
        .output
        .done(&user, format!("{username} is {verb}d"))?)
}

async fn invite(invocation: &Invocation, username: &str, ttl: Duration) -> Outcome {
    let connection = invocation.context.admin().await?;
    let path = format!("/api/v1/users/{}/invitation", segment(username));
    let body = json!({ "ttl_seconds": ttl.as_secs() });
    let made: Value = connection.call("POST", &path, &body).await?;
    invocation
        .output
        .value(&made, |made| field(made, "/link"))?;
    let ends = field(&made, "/expires");
    say(format!(
        "whoever opens this link first adds a passkey to the account of {username}; it is good once, until {ends}"
    ));
    Ok(())
}

async fn passkeys(invocation: &Invocation, username: &str) -> Outcome {
    let connection = invocation.context.admin().await?;
    let path = format!("/api/v1/users/{}/passkeys", segment(username));
    let passkeys: Value = connection.get(&path).await?;
    invocation.output.list(&passkeys, |passkeys| {
        let fields = ["/id", "/name", "/created", "/last_used", "/aaguid"];
        table(
            &["PASSKEY", "NAME", "CREATED", "LAST USED", "MODEL"],
            &rows(passkeys, &fields),
        )
    })?;
    Ok(())
}

async fn links(invocation: &Invocation, username: &str) -> Outcome {
    let connection = invocation.context.admin().await?;
    let path = format!("/api/v1/users/{}/links", segment(username));
    let links: Value = connection.get(&path).await?;
    invocation.output.list(&links, |links| {
        let fields = [
            "/id",
            "/identity_provider",
            "/account",
            "/subject",
            "/last_login",
        ];
        table(
            &["LINK", "AT", "ACCOUNT", "SUBJECT", "LAST LOGIN"],
            &rows(links, &fields),
        )
    })?;
    Ok(())
}

/// `testudo identity-provider …`.
pub async fn identity_provider(
    invocation: &Invocation,
    command: IdentityProviderCommand,
) -> Outcome {
    let IdentityProviderCommand::List = command;
    let connection = invocation.context.admin().await?;
    let providers: Value = connection.get("/api/v1/identity-providers").await?;
    invocation.output.list(&providers, |providers| {
        let fields = [
            "/name",
            "/issuer",
            "/client_id",
            "/new_users",
            "/redirect_uri",
        ];
        table(
            &["NAME", "ISSUER", "CLIENT", "NEW USERS", "REDIRECT URI"],
            &rows(providers, &fields),
        )
    })?;
    Ok(())
}

/// `testudo session …`.
pub async fn session(invocation: &Invocation, command: SessionCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    match command {
        SessionCommand::List { username } => {
            let path = format!("/api/v1/users/{}/sessions", segment(&username));
            let sessions: Value = connection.get(&path).await?;
            invocation.output.list(&sessions, |sessions| {
                let rows = rows(
                    sessions,
                    &["/id", "/client", "/created", "/expires", "/source_ip"],
                );
                table(&["SESSION", "CLIENT", "CREATED", "EXPIRES", "FROM"], &rows)
            })?;
            Ok(())
        }
        SessionCommand::Revoke { session } => {
            let path = format!("/api/v1/sessions/{}", segment(&session));
            let revoked: Value = connection.call("DELETE", &path, &json!({})).await?;
            Ok(invocation
                .output
                .done(&revoked, format!("{session} is revoked"))?)
        }
    }
}

/// The address of a page of the list at `path`.
pub fn paged(path: &str, page: &PageArguments) -> String {
    let parameter = |name: &str, value: &Option<String>| {
        let value = value.as_deref().map(segment);
        value
            .map(|value| format!("&{name}={value}"))
            .unwrap_or_default()
    };
    let (after, filter) = (
        parameter("after", &page.after),
        parameter("filter", &page.filter),
    );
    format!("{path}?limit={}{after}{filter}", page.limit)
}

/// Rows of the `items` of a page.
pub fn rows(page: &Value, pointers: &[&str]) -> Vec<Vec<String>> {
    let items = page
        .get("items")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    items
        .iter()
        .map(|item| {
            pointers
                .iter()
                .map(|pointer| field(item, pointer))
                .collect()
        })
        .collect()
}

/// A value as one segment or query value of an address.
pub fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes())
        .collect::<String>()
        .replace('+', "%20")
}
