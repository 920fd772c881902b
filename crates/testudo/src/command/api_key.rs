//! `testudo api-key`.

use serde_json::{Value, json};

use super::{
    Invocation,
    account::{paged, rows, segment},
};
use crate::{
    cli::{ApiKeyArgument, ApiKeyCommand, NewApiKeyArguments},
    failure::Outcome,
    output::{field, say, table},
};

const PATH: &str = "/api/v1/api-keys";
const COLUMNS: [&str; 5] = ["ID", "ACCOUNT", "NAME", "SERVICES", "EXPIRES"];
const FIELDS: [&str; 5] = ["/id", "/account", "/name", "/services", "/expires"];

/// `testudo api-key …`.
pub async fn run(invocation: &Invocation, command: ApiKeyCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    let of = |key: &str| format!("{PATH}/{}", segment(key));
    match command {
        ApiKeyCommand::Create(new) => {
            let made: Value = connection.call("POST", PATH, &wanted(&new)).await?;
            show_made(invocation, &made)?;
        }
        ApiKeyCommand::List(page) => {
            let keys: Value = connection.get(&paged(PATH, &page)).await?;
            invocation
                .output
                .list(&keys, |keys| table(&COLUMNS, &rows(keys, &FIELDS)))?;
        }
        ApiKeyCommand::Show(ApiKeyArgument { key }) => {
            let shown: Value = connection.get(&of(&key)).await?;
            let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
            invocation.output.value(&shown, pretty)?;
        }
        ApiKeyCommand::Rotate {
            key: ApiKeyArgument { key },
            overlap,
        } => {
            let path = format!("{}/rotate", of(&key));
            let body = json!({ "overlap_seconds": overlap.as_secs() });
            let made: Value = connection.call("POST", &path, &body).await?;
            show_made(invocation, &made)?;
        }
        ApiKeyCommand::Revoke(ApiKeyArgument { key }) => {
            let revoked: Value = connection.call("DELETE", &of(&key), &json!({})).await?;
            let done = format!("{key} is revoked, and no gateway takes it any more");
            invocation.output.done(&revoked, done)?;
        }
    }
    Ok(())
}

fn wanted(new: &NewApiKeyArguments) -> Value {
    json!({
        "account": new.account,
        "name": new.name,
        "ttl_seconds": new.ttl.as_secs(),
        "scopes": (!new.scopes.is_empty()).then_some(&new.scopes),
        "services": new.services,
        "networks": new.networks,
    })
}

/// The key on standard output, so that it can be piped; what it is beside it.
fn show_made(invocation: &Invocation, made: &Value) -> Outcome {
    invocation.output.value(made, |made| field(made, "/key"))?;
    let (id, expires) = (field(made, "/id"), field(made, "/expires"));
    say(format!(
        "this is {id}, shown once; it is good until {expires}"
    ));
    Ok(())
}
