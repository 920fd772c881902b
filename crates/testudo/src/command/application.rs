//! `testudo client …` and `testudo service-account …`.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    Invocation,
    account::{paged, rows, segment},
};
use crate::{
    cli::{
        AccountArgument, ClientArgument, ClientCommand, NewAccountArguments, NewClientArguments,
        ServiceAccountCommand,
    },
    failure::{Exit, Failure, Outcome},
    output::{field, say, table},
};

const CLIENTS: &str = "/api/v1/clients";
const ACCOUNTS: &str = "/api/v1/service-accounts";

/// `testudo client …`.
pub async fn client(invocation: &Invocation, command: ClientCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    let of = |client: &str| format!("{CLIENTS}/{}", segment(client));
    match command {
        ClientCommand::List(page) => {
            let clients: Value = connection.get(&paged(CLIENTS, &page)).await?;
            invocation.output.list(&clients, |clients| {
                let fields = [
                    "/client_id",
                    "/display_name",
                    "/kind",
                    "/registered_with",
                    "/expires",
                ];
                table(
                    &["ID", "NAME", "KIND", "REGISTERED WITH", "EXPIRES"],
                    &rows(clients, &fields),
                )
            })?;
        }
        ClientCommand::Show(ClientArgument { client }) => {
            let shown: Value = connection.get(&of(&client)).await?;
            invocation.output.value(&shown, pretty)?;
        }
        ClientCommand::Create(new) => {
            let made: Value = connection.call("POST", CLIENTS, &client_of(&new)?).await?;
            show_made(invocation, &made, &new.client)?;
        }
        ClientCommand::Delete(ClientArgument { client }) => {
            let deleted: Value = connection.call("DELETE", &of(&client), &json!({})).await?;
            let done = format!("{client} is deleted, and what it was granted is worthless");
            invocation.output.done(&deleted, done)?;
        }
        ClientCommand::Disable(ClientArgument { client }) => {
            let path = format!("{}/disable", of(&client));
            let changed: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("{client} is disabled");
            invocation.output.done(&changed, done)?;
        }
        ClientCommand::Enable(ClientArgument { client }) => {
            let path = format!("{}/enable", of(&client));
            let changed: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("{client} is enabled");
            invocation.output.done(&changed, done)?;
        }
        ClientCommand::RotateSecret { client, overlap } => {
            let path = format!("{}/rotate-secret", of(&client));
            let body = json!({ "overlap_seconds": overlap.as_secs() });
            let made: Value = connection.call("POST", &path, &body).await?;
            invocation
                .output
                .value(&made, |made| field(made, "/secret"))?;
            let ends = field(&made, "/previous_secret_ends");
            say(format!(
                "this is the new secret of {client}, shown once; the one before is good until {ends}"
            ));
        }
    }
    Ok(())
}

/// `testudo service-account …`.
pub async fn service_account(invocation: &Invocation, command: ServiceAccountCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    let of = |account: &str| format!("{ACCOUNTS}/{}", segment(account));
    match command {
        ServiceAccountCommand::List(page) => {
            let accounts: Value = connection.get(&paged(ACCOUNTS, &page)).await?;
            invocation.output.list(&accounts, |accounts| {
                let fields = ["/name", "/id", "/roles", "/scopes", "/disabled"];
                table(
                    &["NAME", "ID", "ROLES", "SCOPES", "DISABLED"],
                    &rows(accounts, &fields),
                )
            })?;
        }
        ServiceAccountCommand::Show(AccountArgument { account }) => {
            let shown: Value = connection.get(&of(&account)).await?;
            invocation.output.value(&shown, pretty)?;
        }
        ServiceAccountCommand::Create(new) => {
            let body = account_of(&new)?;
            let made: Value = connection.call("POST", ACCOUNTS, &body).await?;
            show_made(invocation, &made, &new.account)?;
        }
        ServiceAccountCommand::Delete(AccountArgument { account }) => {
            let deleted: Value = connection.call("DELETE", &of(&account), &json!({})).await?;
            let done = format!("{account} is deleted, and its tokens are worthless");
            invocation.output.done(&deleted, done)?;
        }
        ServiceAccountCommand::Disable(AccountArgument { account }) => {
            let path = format!("{}/disable", of(&account));
            let changed: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("{account} is disabled, and its tokens are worthless");
            invocation.output.done(&changed, done)?;
        }
        ServiceAccountCommand::Enable(AccountArgument { account }) => {
            let path = format!("{}/enable", of(&account));
            let changed: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("{account} is enabled");
            invocation.output.done(&changed, done)?;
        }
    }
    Ok(())
}

fn client_of(new: &NewClientArguments) -> Result<Value, Failure> {
    let kind = if new.confidential {
        "confidential"
    } else {
        "public"
    };
    let consent = if new.consent { "required" } else { "implied" };
    let grants = new.grants.iter().map(|grant| grant.as_str());
    Ok(json!({
        "client_id": new.client,
        "display_name": new.display_name.as_deref().unwrap_or(&new.client),
        "kind": kind,
        "redirect_uris": new.redirect_uris,
        "grants": grants.collect::<Vec<_>>(),
        "scopes": new.scopes,
        "jwks": keys_of(new.jwks_file.as_deref())?,
        "policy": { "consent": consent },
    }))
}

fn account_of(new: &NewAccountArguments) -> Result<Value, Failure> {
    Ok(json!({
        "name": new.account,
        "description": new.description,
        "groups": new.groups,
        "roles": new.roles,
        "scopes": new.scopes,
        "workloads": new.workloads,
        "jwks": keys_of(new.jwks_file.as_deref())?,
        "signals": new.signals.as_ref().map(|algorithm| json!({ "signed_response_alg": algorithm })),
    }))
}

fn keys_of(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let read = |file: &Path| {
        fs::read_to_string(file).map_err(|error| {
            let what = format!("cannot read the key set {}: {error}", file.display());
            Failure::new(Exit::Failed, what)
        })
    };
    file.map(read).transpose()
}

/// The secret on standard output, so that it can be piped; what it is beside it.
fn show_made(invocation: &Invocation, made: &Value, name: &str) -> Outcome {
    match made.get("secret").and_then(Value::as_str) {
        Some(_) => {
            invocation
                .output
                .value(made, |made| field(made, "/secret"))?;
            say(format!("{name} is created; this is its secret, shown once"));
        }
        None => invocation.output.done(made, format!("{name} is created"))?,
    }
    Ok(())
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
