//! `testudo import`: moving in from another identity provider.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};
use testudo_controlplane::{
    api::import::Batch,
    offline::{ImportedRealm, read_keycloak_realm},
};

use super::Invocation;
use crate::{
    cli::ImportCommand,
    failure::{Exit, Failure, Outcome},
    output::{field, say},
};

/// `testudo import …`.
pub async fn run(invocation: &Invocation, command: ImportCommand) -> Outcome {
    match command {
        ImportCommand::Keycloak { file, dry_run } => keycloak(invocation, &file, dry_run).await,
    }
}

async fn keycloak(invocation: &Invocation, file: &Path, dry_run: bool) -> Outcome {
    let text = fs::read_to_string(file).map_err(|error| Failure::of_file("read", file, &error))?;
    let realm = read_keycloak_realm(&text).map_err(|error| {
        Failure::new(Exit::Failed, format!("{}: {error}", file.display()))
            .help("make it with `kc.sh export --realm NAME --file realm.json`")
    })?;
    let connection = invocation.context.admin().await?;
    let mut report = Report::default();
    let (mut sent, all) = (0, realm.users.len());
    for batch in Batch::all_of(&realm, dry_run) {
        let part = serde_json::to_value(&batch)?;
        let answer: Value = connection.call("POST", "/api/v1/import", &part).await?;
        report.add(&answer);
        sent += batch.users.len();
        if sent > 0 && sent < all {
            say(format!("{sent} of {all} users"));
        }
    }
    let value = report.told(&realm, dry_run);
    Ok(invocation.output.value(&value, in_words)?)
}

/// What all parts came to.
#[derive(Default)]
struct Report {
    created: BTreeSet<String>,
    present: BTreeSet<String>,
    generated: Vec<Value>,
}

impl Report {
    fn add(&mut self, answer: &Value) {
        let texts = |name: &str| {
            let list = answer.get(name).and_then(Value::as_array);
            let texts = list.into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect::<Vec<_>>()
        };
        self.created.extend(texts("created"));
        self.present.extend(texts("present"));
        let generated = answer.get("generated").and_then(Value::as_array);
        self.generated
            .extend(generated.into_iter().flatten().cloned());
    }

    fn told(&self, realm: &ImportedRealm, dry_run: bool) -> Value {
        json!({
            "realm": realm.name,
            "dry_run": dry_run,
            "created": self.created,
            "present": self.present.difference(&self.created).collect::<Vec<_>>(),
            "left_out": realm.left_out,
            "generated": self.generated,
        })
    }
}

fn in_words(report: &Value) -> String {
    let list = |name: &str| {
        report
            .get(name)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
    };
    let counted = |name: &str| {
        let kinds = ["role", "group", "user", "client"].map(|kind| {
            let prefix = format!("{kind} ");
            let is_one =
                |item: &&Value| item.as_str().is_some_and(|item| item.starts_with(&prefix));
            match list(name).iter().filter(is_one).count() {
                1 => format!("1 {kind}"),
                count => format!("{count} {kind}s"),
            }
        });
        kinds.join(", ")
    };
    let verb = match report.get("dry_run") {
        Some(Value::Bool(true)) => "would be made",
        _ => "made",
    };
    let mut lines = vec![format!(
        "{}: {} {verb}",
        field(report, "/realm"),
        counted("created")
    )];
    if !list("present").is_empty() {
        lines.push(format!(
            "here already, and not touched: {}",
            counted("present")
        ));
    }
    for left in list("left_out") {
        let (kind, name, why) = (
            field(left, "/kind"),
            field(left, "/name"),
            field(left, "/why"),
        );
        lines.push(format!("left out: {kind} `{name}`: {why}"));
    }
    for made in list("generated") {
        let (client, secret) = (field(made, "/client"), field(made, "/secret"));
        lines.push(format!(
            "the new secret of {client}, shown this once: {secret}"
        ));
    }
    lines.join("\n")
}
