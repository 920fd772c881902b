//! `testudo registration-token`.

use serde_json::{Value, json};

use super::{
    Invocation,
    account::{paged, rows, segment},
};
use crate::{
    cli::RegistrationTokenCommand,
    failure::Outcome,
    output::{field, table},
};

const COLUMNS: [&str; 4] = ["ID", "USES LEFT", "EXPIRES", "LABEL"];
const FIELDS: [&str; 4] = ["/id", "/uses_left", "/expires", "/label"];
const PATH: &str = "/api/v1/registration-tokens";

/// `testudo registration-token …`.
pub async fn run(invocation: &Invocation, command: RegistrationTokenCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    match command {
        RegistrationTokenCommand::Create { uses, ttl, label } => {
            let body = json!({ "uses": uses, "ttl_seconds": ttl.as_secs(), "label": label });
            let made: Value = connection.call("POST", PATH, &body).await?;
            invocation
                .output
                .value(&made, |made| field(made, "/token"))?;
        }
        RegistrationTokenCommand::List(page) => {
            let tokens: Value = connection.get(&paged(PATH, &page)).await?;
            invocation
                .output
                .list(&tokens, |tokens| table(&COLUMNS, &rows(tokens, &FIELDS)))?;
        }
        RegistrationTokenCommand::Delete { token } => {
            let path = format!("{PATH}/{}", segment(&token));
            let deleted: Value = connection.call("DELETE", &path, &json!({})).await?;
            let done = format!("{token} is deleted; what was registered with it stays");
            invocation.output.done(&deleted, done)?;
        }
    }
    Ok(())
}
