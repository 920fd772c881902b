//! `testudo audit`: read, prove and verify the ledger.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use testudo_controlplane::{
    client::{Connection, ConnectionError},
    offline,
};
use tokio::time::Instant;

use super::{Invocation, account::segment};
use crate::{
    cli::AuditCommand,
    failure::{Exit, Failure, Outcome},
    output::{field, say},
};

/// People ask about what they have just seen, and events are shipped every half second.
const SHIPPING: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(200);

/// The answer of `path`, once the events it is made of are in the ledger.
pub(super) async fn shipped(connection: &Connection, path: &str) -> Result<Value, ConnectionError> {
    let until = Instant::now() + SHIPPING;
    loop {
        match connection.get(path).await {
            Err(ConnectionError::Problem(problem))
                if problem.status == 404 && Instant::now() < until =>
            {
                tokio::time::sleep(LOOK).await;
            }
            answer => break answer,
        }
    }
}

/// `testudo audit …`.
pub async fn run(invocation: &Invocation, command: AuditCommand) -> Outcome {
    match command {
        AuditCommand::Tail {
            lines,
            no_follow,
            filter,
        } => tail(invocation, lines, !no_follow, &filter).await,
        AuditCommand::Search { filter, limit } => search(invocation, &filter, limit).await,
        AuditCommand::Show { event } => show(invocation, &event).await,
        AuditCommand::Prove { event, to } => prove(invocation, &event, to.as_deref()).await,
        AuditCommand::Export { directory } => export(invocation, &directory).await,
        AuditCommand::Verify {
            export: Some(directory),
            key,
            checkpoint,
            roots,
            ..
        } => {
            let (checkpoint, roots) = (checkpoint.as_deref(), roots.as_deref());
            verify_export(invocation, &directory, key, checkpoint, roots).await
        }
        AuditCommand::Verify {
            proof: Some(proof),
            key,
            ..
        } => verify_proof(invocation, &proof, key).await,
        AuditCommand::Verify { checkpoint, .. } => {
            verify_running(invocation, checkpoint.as_deref()).await
        }
        AuditCommand::Key => text(invocation, "/api/v1/audit/key", "/key").await,
        AuditCommand::Checkpoint => {
            text(invocation, "/api/v1/audit/checkpoint", "/checkpoint").await
        }
    }
}

async fn text(invocation: &Invocation, path: &str, pointer: &str) -> Outcome {
    let value: Value = invocation.context.admin().await?.get(path).await?;
    Ok(invocation
        .output
        .value(&value, |value| field(value, pointer))?)
}

async fn tail(invocation: &Invocation, lines: usize, follow: bool, filter: &[String]) -> Outcome {
    let filter = segment(&filter.join(" "));
    let connection = invocation.context.admin().await?;
    let newest = newest(&connection, &filter, lines).await?;
    for event in newest.events.iter().rev() {
        invocation.output.item(event, one_line)?;
    }
    if !follow {
        return Ok(());
    }
    let mut from = newest.size;
    loop {
        let page: Value = connection
            .get(&format!(
                "/api/v1/audit/tail?from={from}&wait_seconds=20&filter={filter}"
            ))
            .await?;
        for event in items(&page) {
            invocation.output.item(event, one_line)?;
        }
        from = page
            .pointer("/next")
            .and_then(Value::as_u64)
            .unwrap_or(from);
    }
}

async fn search(invocation: &Invocation, filter: &[String], limit: usize) -> Outcome {
    let connection = invocation.context.admin().await?;
    let newest = newest(&connection, &segment(&filter.join(" ")), limit).await?;
    for event in &newest.events {
        invocation.output.item(event, one_line)?;
    }
    if newest.more {
        say("there may be more: narrow the filter or raise --limit");
    }
    Ok(())
}

/// Events that match, the newest first.
struct Newest {
    events: Vec<Value>,
    /// Whether there may be older ones.
    more: bool,
    /// Size of the ledger when they were looked for.
    size: u64,
}

/// At most `limit` of them, page by page.
async fn newest(connection: &Connection, filter: &str, limit: usize) -> Result<Newest, Failure> {
    let mut newest = Newest {
        events: Vec::new(),
        more: true,
        size: 0,
    };
    let mut before = None;
    while newest.more && newest.events.len() < limit {
        let wanted = limit - newest.events.len();
        let mut path = format!("/api/v1/audit/events?limit={wanted}&filter={filter}");
        if let Some(before) = before {
            path.push_str(&format!("&before={before}"));
        }
        let page: Value = connection.get(&path).await?;
        newest.events.extend_from_slice(items(&page));
        let number = |name| page.get(name).and_then(Value::as_u64);
        newest.size = newest.size.max(number("size").unwrap_or(0));
        before = number("next");
        newest.more = before.is_some();
    }
    Ok(newest)
}

async fn show(invocation: &Invocation, event: &str) -> Outcome {
    let path = format!("/api/v1/audit/events/{}", segment(event));
    let event: Value = invocation.context.admin().await?.get(&path).await?;
    Ok(invocation
        .output
        .value(&event, |event| format!("{event:#}"))?)
}

async fn prove(invocation: &Invocation, event: &str, to: Option<&Path>) -> Outcome {
    let path = format!("/api/v1/audit/events/{}/proof", segment(event));
    let proof: Value = invocation.context.admin().await?.get(&path).await?;
    let text = field(&proof, "/proof");
    match to {
        Some(file) => {
            fs::write(file, text).map_err(|error| Failure::of_file("write", file, &error))?;
            say(format!(
                "the proof is in {}; anybody can check it with `testudo audit verify --proof`",
                file.display()
            ));
            Ok(())
        }
        None => Ok(invocation.output.line(text)?),
    }
}

async fn export(invocation: &Invocation, directory: &Path) -> Outcome {
    let body = json!({ "directory": std::path::absolute(directory)? });
    let connection = invocation.context.admin().await?;
    let exported: Value = connection
        .call("POST", "/api/v1/audit/export", &body)
        .await?;
    let done = format!(
        "{} entries written to {}",
        field(&exported, "/size"),
        directory.display()
    );
    Ok(invocation.output.done(&exported, done)?)
}

/// The key given, or the running fleet's.
async fn verifier_key(invocation: &Invocation, key: Option<String>) -> Result<String, Failure> {
    if let Some(key) = key {
        return Ok(key);
    }
    let key: Value = invocation
        .context
        .admin()
        .await?
        .get("/api/v1/audit/key")
        .await?;
    Ok(field(&key, "/key"))
}

async fn verify_export(
    invocation: &Invocation,
    directory: &Path,
    key: Option<String>,
    checkpoint: Option<&Path>,
    roots: Option<&Path>,
) -> Outcome {
    let key = verifier_key(invocation, key).await?;
    let checkpoint = checkpoint.map(read).transpose()?;
    let roots = roots.map(read).transpose()?;
    let report = offline::verify_export(directory, &key, checkpoint.as_deref(), roots.as_deref())
        .map_err(|error| Failure::new(Exit::CheckFailed, error))?;
    Ok(invocation.output.value(&report, |report| {
        format!(
            "verified: {} entries, tree head {}",
            field(report, "/size"),
            field(report, "/root")
        )
    })?)
}

async fn verify_proof(invocation: &Invocation, proof: &Path, key: Option<String>) -> Outcome {
    let key = verifier_key(invocation, key).await?;
    let text = read(proof)?;
    let report = offline::verify_proof(&text, &key)
        .map_err(|error| Failure::new(Exit::CheckFailed, error))?;
    Ok(invocation.output.value(&report, |report| {
        let (index, size) = (field(report, "/index"), field(report, "/size"));
        format!(
            "verified: entry {index} of {size}\n{}",
            field(report, "/entry")
        )
    })?)
}

async fn verify_running(invocation: &Invocation, checkpoint: Option<&Path>) -> Outcome {
    let checkpoint = checkpoint.map(read).transpose()?;
    let connection = invocation.context.admin().await?;
    let body = json!({ "checkpoint": checkpoint });
    let report: Value = connection
        .call("POST", "/api/v1/audit/verify", &body)
        .await?;
    let verified = report.get("verified").and_then(Value::as_bool) == Some(true);
    invocation.output.value(&report, |report| match verified {
        true => format!(
            "verified: {} entries, tree head {}",
            field(report, "/size"),
            field(report, "/root")
        ),
        false => format!("NOT VERIFIED: {}", field(report, "/problem")),
    })?;
    if verified {
        Ok(())
    } else {
        Err(Failure::new(
            Exit::CheckFailed,
            "the ledger does not verify",
        ))
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| Failure::of_file("read", file, &error))
}

fn items(page: &Value) -> &[Value] {
    page.get("items")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// `12 2026-11-22T10:00:00.000Z denied decision.enforce orders:orders.create alice@… policy.user_leg_denied dec_…`.
fn one_line(item: &Value) -> String {
    let event = item.get("event").unwrap_or(item);
    let who = [
        field(event, "/actor/subject"),
        field(event, "/actor/workload"),
        field(event, "/actor/client"),
        field(event, "/source_ip"),
    ];
    let decision = event.get("decision").filter(|decision| !decision.is_null());
    let what = match decision {
        Some(decision) => {
            let target = [field(decision, "/service"), field(decision, "/operation")].join(":");
            format!(
                "{} {target} {} {}",
                field(decision, "/method"),
                field(decision, "/reason"),
                field(decision, "/id")
            )
        }
        None => facts(event),
    };
    let who: Vec<&str> = who
        .iter()
        .map(String::as_str)
        .filter(|text| !text.is_empty())
        .collect();
    format!(
        "{:>8} {} {:<7} {:<20} {} [{}] {}",
        field(item, "/index"),
        field(item, "/time"),
        field(event, "/outcome"),
        field(event, "/activity"),
        what,
        who.join(" "),
        field(event, "/id"),
    )
}

/// What an event that is no decision was about: its target and its details.
fn facts(event: &Value) -> String {
    let details = event.get("details").and_then(Value::as_object);
    let details = details.into_iter().flatten();
    let details = details.map(|(name, value)| format!("{name}={}", field(value, "")));
    let target = Some(field(event, "/target")).filter(|target| !target.is_empty());
    target
        .into_iter()
        .chain(details)
        .collect::<Vec<_>>()
        .join(" ")
}
