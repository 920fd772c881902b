//! `testudo policy`: check, test, explain.

use serde_json::json;
use testudo_controlplane::offline;

use super::{Invocation, account::segment, audit::shipped, fleet::look_at};
use crate::{
    cli::{FleetArgument, PolicyCommand},
    failure::{Exit, Failure, Outcome},
    output::{field, say},
};

/// `testudo policy …`.
pub async fn run(invocation: &Invocation, command: PolicyCommand) -> Outcome {
    match command {
        PolicyCommand::Check(arguments) => check(invocation, &arguments),
        PolicyCommand::Test(arguments) => test(invocation, &arguments),
        PolicyCommand::Explain { decision } => explain(invocation, &decision).await,
    }
}

fn check(invocation: &Invocation, arguments: &FleetArgument) -> Outcome {
    let fleet = look_at(&arguments.fleet)?.fleet;
    let problems = offline::check_policies(&fleet);
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    invocation.output.value(
        &json!({ "valid": errors == 0, "problems": problems }),
        |_| match problems.as_slice() {
            [] => format!("{} policy files are valid", fleet.policies.len()),
            problems => {
                let shown = problems.iter().map(|problem| format!("{problem:#}"));
                shown.collect::<Vec<_>>().join("\n")
            }
        },
    )?;
    match errors {
        0 => Ok(()),
        1 => Err(Failure::new(
            Exit::CheckFailed,
            "the policies have a problem",
        )),
        count => Err(Failure::new(
            Exit::CheckFailed,
            format!("the policies have {count} problems"),
        )),
    }
}

fn test(invocation: &Invocation, arguments: &FleetArgument) -> Outcome {
    let fleet = look_at(&arguments.fleet)?.fleet;
    if fleet.policy_tests.is_empty() {
        say("no policy tests: add a `*.test.toml` file to the policy folder");
    }
    let report = offline::test_policies(&fleet).map_err(|errors| {
        Failure::new(Exit::CheckFailed, format!("{errors:#}")).help("run `testudo policy check`")
    })?;
    let failed = report.failures().count();
    let cases = report
        .cases
        .iter()
        .map(|case| json!({ "name": case.name, "failure": case.failure }));
    let untested: Vec<&str> = report
        .never_determining
        .iter()
        .map(|policy| policy.id.as_str())
        .collect();
    let json = json!({ "cases": cases.collect::<Vec<_>>(), "untested": untested });
    invocation.output.value(&json, |_| report.to_string())?;
    match failed {
        0 => Ok(()),
        failed => Err(Failure::new(
            Exit::CheckFailed,
            match failed {
                1 => "1 policy test failed".to_owned(),
                _ => format!("{failed} policy tests failed"),
            },
        )),
    }
}

async fn explain(invocation: &Invocation, decision: &str) -> Outcome {
    let path = format!("/api/v1/decisions/{}", segment(decision));
    let connection = invocation.context.admin().await?;
    let explained = shipped(&connection, &path).await?;
    Ok(invocation
        .output
        .value(&explained, |explained| field(explained, "/text"))?)
}
