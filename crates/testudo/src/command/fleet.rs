//! `testudo check`, `apply` and `config`.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use testudo_controlplane::{client::Connection, offline};
use testudo_runtime::{
    Environment,
    fleet::{self, FleetErrors, Loaded},
};
use tokio::time::Instant;

use super::Invocation;
use crate::{
    cli::{ApplyArguments, ConfigCommand, FleetArgument},
    failure::{Exit, Failure, Outcome},
    output::{field, say, table},
};

/// How long `apply` waits for the proxies.
const ROLLOUT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// Loads a fleet file with this process's environment; says its warnings.
pub fn load(path: &Path) -> Result<Loaded, Failure> {
    warned(fleet::load(path, &Environment::of_process(), &[]))
}

/// As [`load`], where rules are looked at: a checkout without the fleet's secrets will do.
pub fn look_at(path: &Path) -> Result<Loaded, Failure> {
    warned(fleet::inspect(path, &Environment::of_process(), &[]))
}

fn warned(loaded: Result<Loaded, FleetErrors>) -> Result<Loaded, Failure> {
    let loaded = loaded.map_err(|errors| Failure::new(Exit::CheckFailed, errors))?;
    for warning in &loaded.warnings {
        say(warning.to_string());
    }
    Ok(loaded)
}

/// `testudo check`.
pub fn check(invocation: &Invocation, arguments: &FleetArgument) -> Outcome {
    let fleet = look_at(&arguments.fleet)?.fleet;
    let problems = offline::check_policies(&fleet);
    for warning in problems.iter().filter(|problem| !problem.is_error()) {
        say(format!("{warning:#}"));
    }
    let errors: Vec<String> = problems
        .iter()
        .filter(|problem| problem.is_error())
        .map(|problem| format!("{problem:#}"))
        .collect();
    if !errors.is_empty() {
        return Err(Failure::new(Exit::CheckFailed, errors.join("\n")));
    }
    let routes: usize = fleet
        .services
        .iter()
        .map(|service| service.routes.len())
        .sum();
    let report = json!({
        "valid": true,
        "trust_domain": fleet.trust_domain,
        "services": fleet.services.len(),
        "routes": routes,
        "policy_files": fleet.policies.len(),
    });
    invocation.output.value(&report, |_| {
        format!(
            "{} is valid: {} services, {routes} routes, {} policy files",
            arguments.fleet.display(),
            fleet.services.len(),
            fleet.policies.len()
        )
    })?;
    Ok(())
}

/// `testudo apply`.
pub async fn apply(invocation: &Invocation, arguments: &ApplyArguments) -> Outcome {
    let loaded = load(&arguments.fleet.fleet)?;
    let path = format!(
        "/api/v1/fleet/apply?dry_run={}&allow_lockout={}",
        arguments.dry_run, arguments.allow_lockout
    );
    let bundle = serde_json::to_value(&loaded.bundle)?;
    let connection = invocation.context.admin().await?;
    let mut applied: Value = connection.call("POST", &path, &bundle).await?;
    if let Some(snapshot) = applied.get("snapshot").and_then(Value::as_u64)
        && let Some(fields) = applied.as_object_mut()
    {
        let rollout = rollout(&connection, snapshot).await?;
        fields.insert("enforcing".to_owned(), json!(rollout.enforcing.len()));
        fields.insert("behind".to_owned(), json!(rollout.behind));
    }
    invocation.output.value(&applied, summary)?;
    Ok(())
}

/// Which of the connected proxies enforce a snapshot.
struct Rollout {
    enforcing: Vec<String>,
    behind: Vec<String>,
}

/// Waits until every connected proxy enforces `snapshot` or refuses it, at most [`ROLLOUT`].
async fn rollout(connection: &Connection, snapshot: u64) -> Result<Rollout, Failure> {
    let until = Instant::now() + ROLLOUT;
    loop {
        let page: Value = connection.get("/api/v1/proxies").await?;
        let proxies = page
            .get("items")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let live = proxies
            .iter()
            .filter(|proxy| proxy.get("live").and_then(Value::as_bool) == Some(true));
        let enforces = |proxy: &&Value| {
            proxy
                .get("snapshot")
                .and_then(Value::as_u64)
                .is_some_and(|enforced| enforced >= snapshot)
        };
        let (enforcing, behind): (Vec<&Value>, Vec<&Value>) = live.partition(enforces);
        let undecided = behind
            .iter()
            .any(|proxy| field(proxy, "/refused").is_empty());
        if !undecided || Instant::now() >= until {
            let names = |proxies: Vec<&Value>| {
                proxies
                    .into_iter()
                    .map(|proxy| field(proxy, "/spiffe_id"))
                    .collect()
            };
            return Ok(Rollout {
                enforcing: names(enforcing),
                behind: names(behind),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn summary(applied: &Value) -> String {
    let flag = |name: &str| applied.get(name).and_then(Value::as_bool) == Some(true);
    let list = |name: &str| {
        applied
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let waiting = list("at_next_start");
    let mut lines = vec![match (flag("changed"), flag("dry_run")) {
        (false, _) if waiting.is_empty() => "nothing changes".to_owned(),
        (false, _) => "nothing changes in the running fleet".to_owned(),
        (true, true) => "this would change:".to_owned(),
        (true, false) => format!("snapshot {} is in force", field(applied, "/snapshot")),
    }];
    lines.extend(
        list("changes")
            .iter()
            .map(|change| format!("  {}", field(change, ""))),
    );
    lines.extend(waiting.iter().map(|setting| {
        format!(
            "  read at a start only, and the process started with another: {}",
            field(setting, "")
        )
    }));
    lines.extend(list("generated").iter().map(|made| {
        format!(
            "  secret of {} (shown once): {}",
            field(made, "/name"),
            field(made, "/secret")
        )
    }));
    if flag("changed") && !flag("dry_run") {
        lines.push(format!(
            "enforced by {} proxies",
            field(applied, "/enforcing")
        ));
        lines.extend(
            list("behind")
                .iter()
                .map(|proxy| format!("not enforced yet by {}", field(proxy, ""))),
        );
    }
    lines.join("\n")
}

/// `testudo config …`.
pub fn config(invocation: &Invocation, command: ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Schema => Ok(invocation.output.line(fleet::schema_text().trim_end())?),
        ConfigCommand::Show { fleet, origin } => show(invocation, &fleet, origin),
    }
}

fn show(invocation: &Invocation, arguments: &FleetArgument, origin: bool) -> Outcome {
    let loaded = look_at(&arguments.fleet)?;
    let settings: Vec<_> = loaded.origins.settings().collect();
    let list = settings.iter().map(|setting| {
        json!({ "key": setting.key, "value": setting.value, "origin": setting.origin.to_string() })
    });
    invocation
        .output
        .value(&Value::Array(list.collect()), |_| {
            let rows: Vec<Vec<String>> = settings
                .iter()
                .map(|setting| {
                    let mut row = vec![setting.key.to_string(), setting.value.to_string()];
                    if origin {
                        row.push(setting.origin.to_string());
                    }
                    row
                })
                .collect();
            table(
                if origin {
                    &["SETTING", "VALUE", "FROM"]
                } else {
                    &["SETTING", "VALUE"]
                },
                &rows,
            )
        })?;
    Ok(())
}
