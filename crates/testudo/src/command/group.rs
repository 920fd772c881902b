//! `testudo group` and `testudo role`.

use serde_json::{Value, json};

use super::{
    Invocation,
    account::{paged, rows, segment},
};
use crate::{
    cli::{GroupCommand, GroupProfileArguments, MemberArguments, RoleCommand},
    failure::Outcome,
    output::{field, table},
};

/// `testudo group …`.
pub async fn group(invocation: &Invocation, command: GroupCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    match command {
        GroupCommand::List(page) => {
            let groups: Value = connection.get(&paged("/api/v1/groups", &page)).await?;
            invocation.output.list(&groups, |groups| {
                let fields = ["/name", "/display_name", "/parents", "/roles", "/id"];
                table(
                    &["NAME", "SHOWN AS", "IN", "ROLES", "ID"],
                    &rows(groups, &fields),
                )
            })?;
        }
        GroupCommand::Show { group } => {
            let group: Value = connection.get(&of(&group)).await?;
            invocation
                .output
                .value(&group, |group| format!("{group:#}"))?;
        }
        GroupCommand::Create { group, profile } => {
            let mut body = body_of(&profile);
            if let Some(body) = body.as_object_mut() {
                body.insert("name".to_owned(), json!(group));
            }
            let made: Value = connection.call("POST", "/api/v1/groups", &body).await?;
            invocation
                .output
                .done(&made, format!("{group} is created"))?;
        }
        GroupCommand::Replace { group, profile } => {
            let body = body_of(&profile);
            let changed: Value = connection.call("PUT", &of(&group), &body).await?;
            invocation
                .output
                .done(&changed, format!("{group} is as said"))?;
        }
        GroupCommand::Delete { group, dissolve } => {
            let path = format!("{}?dissolve={dissolve}", of(&group));
            let deleted: Value = connection.call("DELETE", &path, &json!({})).await?;
            invocation
                .output
                .done(&deleted, format!("{group} is deleted"))?;
        }
        GroupCommand::Members {
            group,
            nested,
            page,
        } => {
            let path = paged(&format!("{}/members", of(&group)), &page);
            let members: Value = connection.get(&format!("{path}&nested={nested}")).await?;
            invocation.output.list(&members, |members| {
                let fields = ["/kind", "/name", "/via", "/id"];
                table(&["KIND", "NAME", "IN", "ID"], &rows(members, &fields))
            })?;
        }
        GroupCommand::Add { group, member } => {
            let path = member_of(&group, &member);
            let added: Value = connection.call("PUT", &path, &json!({})).await?;
            let done = match field(&added, "/changed").as_str() {
                "false" => format!("{} is in {group} already", member.member),
                _ => format!("{} is in {group}", member.member),
            };
            invocation.output.done(&added, done)?;
        }
        GroupCommand::Remove { group, member } => {
            let path = member_of(&group, &member);
            let removed: Value = connection.call("DELETE", &path, &json!({})).await?;
            let done = match field(&removed, "/changed").as_str() {
                "false" => format!("{} was not in {group}", member.member),
                _ => format!("{} is no longer in {group}", member.member),
            };
            invocation.output.done(&removed, done)?;
        }
    }
    Ok(())
}

/// `testudo role …`.
pub async fn role(invocation: &Invocation, command: RoleCommand) -> Outcome {
    let connection = invocation.context.admin().await?;
    match command {
        RoleCommand::List(page) => {
            let roles: Value = connection.get(&paged("/api/v1/roles", &page)).await?;
            invocation.output.list(&roles, |roles| {
                table(
                    &["NAME", "DESCRIPTION"],
                    &rows(roles, &["/name", "/description"]),
                )
            })?;
        }
        RoleCommand::Create { role, description } => {
            let body = json!({ "name": role, "description": description });
            let made: Value = connection.call("POST", "/api/v1/roles", &body).await?;
            invocation
                .output
                .done(&made, format!("{role} is created"))?;
        }
        RoleCommand::Delete { role } => {
            let path = format!("/api/v1/roles/{}", segment(&role));
            let deleted: Value = connection.call("DELETE", &path, &json!({})).await?;
            invocation
                .output
                .done(&deleted, format!("{role} is deleted"))?;
        }
    }
    Ok(())
}

fn of(group: &str) -> String {
    format!("/api/v1/groups/{}", segment(group))
}

fn member_of(group: &str, member: &MemberArguments) -> String {
    let kind = member.kind.as_str();
    format!("{}/members/{kind}/{}", of(group), segment(&member.member))
}

fn body_of(profile: &GroupProfileArguments) -> Value {
    json!({
        "display_name": profile.display_name,
        "description": profile.description,
        "parents": profile.parents,
        "roles": profile.roles,
    })
}
