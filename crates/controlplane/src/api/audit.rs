//! Reading, proving and verifying the ledger.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_audit::{Entry, ExportError, Filter, Leaf, LedgerError};
use testudo_model::{DecisionId, EventId, event::DecisionRecord};
use testudo_runtime::with_causes;

use super::{
    Administrator, Answer,
    extract::{Body, Path, Query},
};
use crate::{http::Refusal, plane::Plane};

/// Events one `search` answer holds at most; the next page is asked for with `before`.
const SEARCH_PAGE: usize = 500;
/// Time after which a `search` answers with what it has.
const SEARCH_TIME: Duration = Duration::from_secs(5);
/// Leaves one `tail` answer holds at most.
const TAIL_PAGE: usize = 500;
/// Longest wait of a `tail`.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How often a waiting `tail` looks.
const LOOK: Duration = Duration::from_millis(200);

/// `?filter=…&limit=…&before=…`.
#[derive(Deserialize)]
pub struct Search {
    #[serde(default)]
    filter: String,
    #[serde(default = "default_limit")]
    limit: usize,
    before: Option<u64>,
}

const fn default_limit() -> usize {
    50
}

/// `GET /api/v1/audit/events`: newest first.
pub async fn search(State(plane): State<Arc<Plane>>, Query(search): Query<Search>) -> Answer {
    plane
        .blocking(move |plane| {
            let filter = parse(plane, &search.filter)?;
            let mut items = Vec::new();
            let size = plane.ledger.size().map_err(|error| refusal(&error))?;
            let limit = search.limit.clamp(1, SEARCH_PAGE);
            let mut before = search.before;
            let began = plane.clock.monotonic_nanos();
            let took = || Duration::from_nanos(plane.clock.monotonic_nanos().saturating_sub(began));
            // One call looks at a bounded number of leaves; going on is what the caller would do.
            loop {
                let wanted = limit.saturating_sub(items.len());
                let page = plane.ledger.search(&filter, before, wanted).map_err(|error| refusal(&error))?;
                items.extend(page.entries.iter().map(entry));
                before = page.next;
                if before.is_none() || items.len() >= limit || took() >= SEARCH_TIME {
                    break;
                }
            }
            Ok(Json(json!({ "items": items, "size": size, "next": before, "truncated": before.is_some() })))
        })
        .await?
}

/// `?from=…&filter=…&wait_seconds=…`.
#[derive(Deserialize)]
pub struct Tail {
    from: u64,
    #[serde(default)]
    filter: String,
    #[serde(default)]
    wait_seconds: u64,
}

/// `GET /api/v1/audit/tail`: events from a leaf on, oldest first; waits a while if there are none.
pub async fn tail(State(plane): State<Arc<Plane>>, Query(tail): Query<Tail>) -> Answer {
    let filter = parse(&plane, &tail.filter)?;
    let waits = Duration::from_secs(tail.wait_seconds)
        .min(MAX_WAIT)
        .as_millis()
        / LOOK.as_millis();
    let mut next = tail.from;
    for _ in 0..=waits {
        let from = next;
        let wanted = filter.clone();
        let (seen, items) = plane
            .blocking(move |plane| matching(plane, from, &wanted))
            .await?
            .map_err(|error| refusal(&error))?;
        next = from + seen;
        if !items.is_empty() {
            return Ok(Json(json!({ "items": items, "next": next })));
        }
        if seen == 0 {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(Json(json!({ "items": [], "next": next })))
}

/// How many of the leaves from `from` on were looked at, and the events among them that match.
fn matching(plane: &Plane, from: u64, filter: &Filter) -> Result<(u64, Vec<Value>), LedgerError> {
    let leaves = plane.ledger.tail(from, TAIL_PAGE)?;
    let found = leaves.iter().filter(|leaf| leaf.matches(filter));
    Ok((leaves.len() as u64, found.map(entry).collect()))
}

/// `GET /api/v1/audit/events/{event}`: by event id, decision id or index.
pub async fn show(State(plane): State<Arc<Plane>>, Path(event): Path<String>) -> Answer {
    plane
        .blocking(move |plane| {
            let found = find(plane, &event)?;
            Ok(Json(entry(&found)))
        })
        .await?
}

/// `GET /api/v1/audit/events/{event}/proof`.
pub async fn prove(State(plane): State<Arc<Plane>>, Path(event): Path<String>) -> Answer {
    plane
        .blocking(move |plane| {
            let found = find(plane, &event)?;
            let proof = plane
                .ledger
                .prove(found.index)
                .map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "index": found.index, "proof": proof })))
        })
        .await?
}

/// `GET /api/v1/decisions/{decision}`: the event of a decision, explained.
pub async fn decision(State(plane): State<Arc<Plane>>, Path(decision): Path<DecisionId>) -> Answer {
    plane
        .blocking(move |plane| {
            let found = plane.ledger.decision(&decision).map_err(|error| refusal(&error))?;
            let found = only(found)?.ok_or_else(|| {
                Refusal::not_found("decision")
                    .detail("it is not in the ledger: proxies ship their events every half second, try again")
            })?;
            let record = found.leaf.event().and_then(|event| event.decision.as_ref());
            let text = record
                .map(|record| explain(plane, record))
                .transpose()?;
            Ok(Json(json!({ "text": text, "entry": entry(&found) })))
        })
        .await?
}

fn explain(plane: &Plane, record: &DecisionRecord) -> Result<String, Refusal> {
    let snapshot = plane
        .activation
        .current()
        .map_err(|error| Refusal::internal(&error))?;
    let engine = snapshot
        .as_ref()
        .and_then(|snapshot| testudo_policy::PolicyEngine::compile(snapshot).ok());
    let operation = record.operation.as_deref().unwrap_or("no route");
    let verdict = if record.reason == "allowed" {
        "allowed"
    } else {
        "denied"
    };
    let mut lines = vec![format!(
        "{} {verdict}: {} {} on {} ({operation}), snapshot {}",
        record.id, record.method, record.path, record.service, record.snapshot
    )];
    lines.push(format!("reason: {}", record.reason));
    if snapshot.is_some_and(|snapshot| snapshot.version.0 != record.snapshot) {
        lines.push(
            "note: the policies have changed since; what is missing is said by today's".to_owned(),
        );
    }
    let context = record.grounds.context.as_deref();
    for leg in &*record.grounds.legs {
        lines.push(
            engine
                .as_ref()
                .map_or_else(String::new, |engine| engine.explain(leg, context)),
        );
    }
    Ok(lines.join("\n"))
}

/// `GET /api/v1/audit/checkpoint`.
pub async fn checkpoint(State(plane): State<Arc<Plane>>) -> Answer {
    plane
        .blocking(|plane| {
            let note = plane.ledger.checkpoint().map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "checkpoint": note })))
        })
        .await?
}

/// `GET /api/v1/audit/key`.
pub async fn key(State(plane): State<Arc<Plane>>) -> Answer {
    Ok(Json(json!({ "key": plane.ledger.verifier_key() })))
}

/// Body of a verification.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// A checkpoint kept from before, to see that nothing it covers was changed.
    #[serde(default)]
    checkpoint: Option<String>,
}

/// `POST /api/v1/audit/verify`: recomputes everything in place.
pub async fn verify(
    State(plane): State<Arc<Plane>>,
    Body(verification): Body<Verification>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let roots = plane
                .workloads
                .historic_bundle()
                .map_err(|error| Refusal::internal(&error))?;
            match plane
                .ledger
                .verify(Some(&roots), verification.checkpoint.as_deref())
            {
                Ok(report) => Ok(Json(json!({
                    "verified": report.is_intact(),
                    "size": report.leaves,
                    "events": report.events,
                    "root": testudo_trust::hex::encode(&report.checkpoint.root),
                    "missing_blocks": report.missing_blocks,
                    "lost_events": report.lost_events,
                    "forks": report.forks,
                    "problem": report.defect.map(|defect| defect.to_string()),
                }))),
                Err(error) => Ok(Json(
                    json!({ "verified": false, "problem": with_causes(&error) }),
                )),
            }
        })
        .await?
}

/// Body of an export.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    directory: PathBuf,
}

/// `POST /api/v1/audit/export`: writes the ledger in plain files, on this machine, for its owner. Such files are
/// readable, so nobody gets them over the network.
pub async fn export(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(Export { directory }): Body<Export>,
) -> Answer {
    if administrator.source_ip.is_some() {
        return Err(Refusal::new(
            403,
            "audit.export_local",
            "an export is made on the control plane's machine",
        )
        .detail("run `testudo audit export` there, without --server"));
    }
    plane
        .blocking(move |plane| match plane.ledger.export(&directory) {
            Ok(size) => Ok(Json(json!({ "size": size }))),
            Err(ExportError::Ledger(error)) => Err(refusal(&error)),
            Err(error) => Err(Refusal::bad_request(with_causes(&error))),
        })
        .await?
}

fn find(plane: &Plane, name: &str) -> Result<Entry, Refusal> {
    let found = if let Ok(index) = name.parse() {
        Some(plane.ledger.entry(index).map_err(|error| refusal(&error))?)
    } else if let Ok(id) = name.parse::<EventId>() {
        only(plane.ledger.event(&id).map_err(|error| refusal(&error))?)?
    } else if let Ok(id) = name.parse::<DecisionId>() {
        only(
            plane
                .ledger
                .decision(&id)
                .map_err(|error| refusal(&error))?,
        )?
    } else {
        return Err(Refusal::bad_request(
            "name an event by `evt_…`, `dec_…` or its index",
        ));
    };
    found.ok_or_else(|| Refusal::not_found("event"))
}

/// The event that an id stands for. A proxy that was taken over could give its events the id of another's.
fn only(mut found: Vec<Entry>) -> Result<Option<Entry>, Refusal> {
    if found.len() < 2 {
        return Ok(found.pop());
    }
    let places: Vec<_> = found.iter().map(|entry| entry.index.to_string()).collect();
    Err(
        Refusal::new(409, "audit.ambiguous_id", "several events carry this id").detail(format!(
            "leaves {} carry it: look at each by its index, and at who reported it",
            places.join(", ")
        )),
    )
}

fn parse(plane: &Plane, filter: &str) -> Result<Filter, Refusal> {
    Filter::parse(filter, plane.clock.now()).map_err(|error| {
        Refusal::new(400, "audit.filter", "the filter is not valid").detail(error.to_string())
    })
}

/// A leaf as the API shows it.
pub(super) fn entry(entry: &Entry) -> Value {
    let content = match &entry.leaf {
        Leaf::Event(event) => json!(event),
        Leaf::Alike(_) => json!(entry.text),
        Leaf::Block(evidence) | Leaf::Fork(evidence) => json!(evidence),
    };
    let time = entry
        .leaf
        .event()
        .map_or(entry.recorded_at, |event| event.time);
    json!({ "index": entry.index, "time": time.to_string(), "event": content })
}

/// The answer to a failure of the ledger.
pub(super) fn refusal(error: &LedgerError) -> Refusal {
    match error {
        LedgerError::NoSuchLeaf { .. } => Refusal::not_found("entry").detail(error.to_string()),
        error => Refusal::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use testudo_model::event::{Actor, EventClass, Outcome};

    use super::*;
    use crate::{fixtures::plane, plane::Note};

    #[tokio::test]
    async fn however_much_is_asked_for_an_answer_is_a_page_and_says_where_the_next_one_begins() {
        let folder = tempfile::tempdir().unwrap();
        let plane = plane(folder.path());
        for _ in 0..=SEARCH_PAGE {
            let note = Note {
                class: EventClass::ApiActivity,
                activity: "api.call",
                outcome: Outcome::Denied,
                actor: Actor::default(),
                source_ip: None,
                target: None,
                details: Vec::new(),
            };
            plane.note(note).unwrap();
        }
        let ask = |limit, before| {
            let search = Search {
                filter: "activity=api.call".to_owned(),
                limit,
                before,
            };
            search_of(&plane, search)
        };
        let first = ask(usize::MAX, None).await;
        assert_eq!(first["items"].as_array().unwrap().len(), SEARCH_PAGE);
        let rest = ask(usize::MAX, first["next"].as_u64()).await;
        assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    }

    async fn search_of(plane: &Arc<Plane>, asked: Search) -> Value {
        let answer = search(State(Arc::clone(plane)), Query(asked)).await;
        answer.unwrap().0
    }
}
