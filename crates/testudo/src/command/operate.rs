//! `testudo status`, `proxy`, `join-token` and `key`.

use serde_json::{Value, json};

use super::{
    Invocation,
    account::{rows, segment},
};
use crate::{
    cli::{JoinTokenCommand, KeyCommand, ProxyCommand},
    failure::Outcome,
    output::{field, table},
};

const PROXY_COLUMNS: [&str; 7] = [
    "IDENTITY",
    "STATE",
    "INBOUND",
    "ENFORCES",
    "REVOCATIONS",
    "LAST SEEN",
    "REFUSED",
];
const PROXY_FIELDS: [&str; 7] = [
    "/spiffe_id",
    "/live",
    "/inbound",
    "/snapshot",
    "/revocations_behind",
    "/last_seen",
    "/refused",
];

const TOKEN_COLUMNS: [&str; 5] = ["ID", "FOR", "STATE", "EXPIRES", "USED"];
const TOKEN_FIELDS: [&str; 5] = ["/id", "/spiffe_id", "/state", "/expires", "/used"];

fn proxy_rows(page: &Value) -> Vec<Vec<String>> {
    let mut rows = rows(page, &PROXY_FIELDS);
    for state in rows.iter_mut().filter_map(|row| row.get_mut(1)) {
        *state = if state == "true" { "live" } else { "gone" }.to_owned();
    }
    for behind in rows.iter_mut().filter_map(|row| row.get_mut(4)) {
        match behind.as_str() {
            "0" => *behind = "all".to_owned(),
            "" | "-" => {}
            some => *behind = format!("{some} behind"),
        }
    }
    rows
}

/// `testudo status`.
pub async fn status(invocation: &Invocation) -> Outcome {
    let status: Value = invocation
        .context
        .admin()
        .await?
        .get("/api/v1/status")
        .await?;
    invocation.output.value(&status, |status| {
        let line = |name: &str, pointer: &str| format!("{name:<14}{}", field(status, pointer));
        let proxies = json!({ "items": status.pointer("/proxies").cloned().unwrap_or_default() });
        [
            line("trust domain", "/trust_domain"),
            line("issuer", "/issuer"),
            line("snapshot", "/snapshot"),
            line("services", "/services"),
            line("ledger size", "/ledger/size"),
            String::new(),
            table(&PROXY_COLUMNS, &proxy_rows(&proxies)),
        ]
        .join("\n")
    })?;
    Ok(())
}

/// `testudo proxy …`.
pub async fn proxy(invocation: &Invocation, command: ProxyCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    match command {
        ProxyCommand::List => {
            let proxies: Value = connection.get("/api/v1/proxies").await?;
            invocation
                .output
                .list(&proxies, |page| table(&PROXY_COLUMNS, &proxy_rows(page)))?;
        }
        ProxyCommand::Revoke { spiffe_id } => {
            let body = json!({ "spiffe_id": spiffe_id });
            let revoked: Value = connection
                .call("POST", "/api/v1/identities/revoke", &body)
                .await?;
            invocation
                .output
                .done(&revoked, format!("{spiffe_id} is revoked"))?;
        }
        ProxyCommand::Reinstate { spiffe_id } => {
            let body = json!({ "spiffe_id": spiffe_id });
            let reinstated: Value = connection
                .call("POST", "/api/v1/identities/reinstate", &body)
                .await?;
            let done =
                format!("{spiffe_id} is reinstated; proxies let it in again within 15 minutes");
            invocation.output.done(&reinstated, done)?;
        }
    }
    Ok(())
}

/// `testudo join-token …`.
pub async fn join_token(invocation: &Invocation, command: JoinTokenCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    match command {
        JoinTokenCommand::Create {
            service,
            gateway: _,
            ttl,
        } => {
            let body = match service {
                Some(service) => json!({ "service": service, "ttl_seconds": ttl.as_secs() }),
                None => json!({ "gateway": true, "ttl_seconds": ttl.as_secs() }),
            };
            let made: Value = connection
                .call("POST", "/api/v1/join-tokens", &body)
                .await?;
            invocation
                .output
                .value(&made, |made| field(made, "/token"))?;
        }
        JoinTokenCommand::List => {
            let tokens: Value = connection.get("/api/v1/join-tokens").await?;
            invocation.output.list(&tokens, |tokens| {
                table(&TOKEN_COLUMNS, &rows(tokens, &TOKEN_FIELDS))
            })?;
        }
        JoinTokenCommand::Delete { token } => {
            let path = format!("/api/v1/join-tokens/{}", segment(&token));
            let deleted: Value = connection.call("DELETE", &path, &json!({})).await?;
            let done = match &*field(&deleted, "/used") {
                "" => format!("{token} is deleted; nobody has used it"),
                used => format!(
                    "{token} is deleted, but a proxy joined with it at {used}; if that was not yours: \
                     testudo proxy revoke {}",
                    field(&deleted, "/spiffe_id")
                ),
            };
            invocation.output.done(&deleted, done)?;
        }
    }
    Ok(())
}

/// `testudo key …`.
pub async fn key(invocation: &Invocation, command: KeyCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    let path = match command {
        KeyCommand::Rotate => "/api/v1/keys/rotate",
        KeyCommand::RotateCa => "/api/v1/ca/rotate",
    };
    let answer: Value = connection.call("POST", path, &json!({})).await?;
    invocation
        .output
        .value(&answer, |answer| field(answer, "/message"))?;
    Ok(())
}
