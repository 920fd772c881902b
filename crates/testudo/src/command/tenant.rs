//! `testudo tenant …`.

use serde_json::{Value, json};

use super::{
    Invocation,
    account::{paged, rows},
};
use crate::{
    cli::TenantCommand,
    failure::Outcome,
    output::{field, table},
};

const TENANTS: &str = "/api/v1/tenants";

/// Runs it.
pub async fn run(invocation: &Invocation, command: TenantCommand) -> Outcome {
    let connection = invocation.context.admin_of_fleet().await?;
    match command {
        TenantCommand::List(page) => {
            let tenants: Value = connection.get(&paged(TENANTS, &page)).await?;
            invocation.output.list(&tenants, |tenants| {
                let fields = ["/name", "/display_name", "/issuer", "/disabled"];
                table(
                    &["NAME", "DISPLAY NAME", "ISSUER", "DISABLED"],
                    &rows(tenants, &fields),
                )
            })?;
        }
        TenantCommand::Create {
            tenant,
            display_name,
        } => {
            let body = json!({ "name": tenant, "display_name": display_name });
            let made: Value = connection.call("POST", TENANTS, &body).await?;
            let issuer = field(&made, "/issuer");
            let done = format!(
                "{tenant} is created; its issuer is {issuer}\nIts first administrator: \
                 testudo --tenant {tenant} user create NAME --role testudo-admin"
            );
            invocation.output.done(&made, done)?;
        }
        TenantCommand::Update {
            tenant,
            display_name,
        } => {
            let body = json!({ "display_name": display_name });
            let path = format!("{TENANTS}/{tenant}");
            let changed: Value = connection.call("PUT", &path, &body).await?;
            let done = format!("{tenant} is called {display_name}");
            invocation.output.done(&changed, done)?;
        }
        TenantCommand::Disable { tenant } => {
            let path = format!("{TENANTS}/{tenant}/disable");
            let changed: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("{tenant} is disabled");
            invocation.output.done(&changed, done)?;
        }
        TenantCommand::Enable { tenant } => {
            let path = format!("{TENANTS}/{tenant}/enable");
            let changed: Value = connection.call("POST", &path, &json!({})).await?;
            let done = format!("{tenant} is enabled");
            invocation.output.done(&changed, done)?;
        }
    }
    Ok(())
}
