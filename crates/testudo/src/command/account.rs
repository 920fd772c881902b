//! `testudo user`, `testudo client` and `testudo session`.

use serde_json::{Value, json};

use super::{Invocation, login::read_password};
use crate::{
    cli::{ClientCommand, PageArguments, SessionCommand, UserCommand},
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
        UserCommand::Disable { username } => set(invocation, &username, "disable").await,
        UserCommand::Enable { username } => set(invocation, &username, "enable").await,
        UserCommand::ResetSecondFactor { username } => {
            let path = format!("/api/v1/users/{}/reset-second-factor", segment(&username));
            let user: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("{username} logs in with the password alone again");
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
    let users: Value = connection.get(&paged("/api/v1/users", page)).await?;
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

/// The address of a page of a list.
pub(super) fn paged(path: &str, page: PageArguments) -> String {
    let after = page
        .after
        .map(|cursor| format!("&after={}", segment(&cursor)))
        .unwrap_or_default();
    format!("{path}?limit={}{after}", page.limit)
}

/// `testudo client …`.
pub async fn client(invocation: &Invocation, command: ClientCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    match command {
        ClientCommand::List(page) => {
            let clients: Value = connection.get(&paged("/api/v1/clients", page)).await?;
            invocation.output.list(&clients, |clients| {
                let fields = [
                    "/client_id",
                    "/name",
                    "/kind",
                    "/registered_with",
                    "/expires",
                ];
                table(
                    &["ID", "NAME", "KIND", "REGISTERED WITH", "EXPIRES"],
                    &rows(clients, &fields),
                )
            })?;
            Ok(())
        }
        ClientCommand::Delete { client } => {
            let path = format!("/api/v1/clients/{}", segment(&client));
            let deleted: Value = connection.call("DELETE", &path, &json!({})).await?;
            let done = format!("{client} is deleted, and what it was granted is worthless");
            Ok(invocation.output.done(&deleted, done)?)
        }
        ClientCommand::RotateSecret { client, overlap } => {
            let path = format!("/api/v1/clients/{}/rotate-secret", segment(&client));
            let body = json!({ "overlap_seconds": overlap.as_secs() });
            let made: Value = connection.call("POST", &path, &body).await?;
            invocation
                .output
                .value(&made, |made| field(made, "/secret"))?;
            let ends = field(&made, "/previous_secret_ends");
            say(format!(
                "this is the new secret of {client}, shown once; the one before is good until {ends}"
            ));
            Ok(())
        }
    }
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
