//! Why an access token exists: the login, what the user allowed, the exchanges, and whether it is still good.
//!
//! Nothing is kept about a token but its events. They are found by when they were made, which ids tell: of the token, of the
//! session at the client, of the login.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use serde_json::{Value, json};
use testudo_audit::Entry;
use testudo_identity::{Fault, TokenNames, limits::MAX_ACTORS};
use testudo_model::{
    SessionId, Timestamp, TokenId,
    event::{Detail, Event, Outcome},
    snapshot::Revoked,
};

use super::{
    Answer,
    audit::{entry, refusal},
    extract::Path,
};
use crate::{http::Refusal, plane::Plane};

/// What happens together is recorded together: the event of it is not further from the id that it is known by.
const APART: Duration = Duration::from_secs(1);

/// `GET /api/v1/tokens/{token}`: by `jti`.
pub async fn explain(State(plane): State<Arc<Plane>>, Path(token): Path<TokenId>) -> Answer {
    plane
        .blocking(move |plane| {
            let story = Story::of(plane, &token)?.ok_or_else(|| {
                Refusal::not_found("token").detail(
                    "no event of the ledger says that it was issued: it is not of this fleet or of another tenant, or was issued a moment ago",
                )
            })?;
            Ok(Json(story.json()))
        })
        .await?
}

/// What became of a token.
enum Standing {
    Good,
    Expired,
    TakenBack(Timestamp),
}

/// How a token came to be, the first step first, and how it ended.
struct Story {
    token: TokenId,
    issued: Event,
    username: Option<String>,
    standing: Standing,
    steps: Vec<Entry>,
}

impl Story {
    fn of(plane: &Plane, token: &TokenId) -> Result<Option<Self>, Refusal> {
        let steps = exchanges(plane, token)?;
        let Some(issued) = steps.first().and_then(event).cloned() else {
            return Ok(None);
        };
        let mut steps = match steps.last().and_then(event) {
            Some(first) => [steps.clone(), grounds(plane, first)?].concat(),
            None => steps,
        };
        steps.reverse();
        let (standing, end) = standing(plane, token, &issued)?;
        steps.extend(end);
        Ok(Some(Self {
            token: token.clone(),
            username: username(plane, &issued),
            issued,
            standing,
            steps,
        }))
    }

    fn json(&self) -> Value {
        let issued = &self.issued;
        let steps: Vec<Value> = self
            .steps
            .iter()
            .filter_map(|step| {
                let mut value = entry(step);
                let what = what(event(step)?, self.username.as_deref());
                value
                    .as_object_mut()?
                    .insert("what".to_owned(), json!(what));
                Some(value)
            })
            .collect();
        let (standing, ended_at) = match self.standing {
            Standing::Good => ("good", None),
            Standing::Expired => ("expired", detail(issued, "expires_at").map(str::to_owned)),
            Standing::TakenBack(at) => ("taken back", Some(at.to_string())),
        };
        json!({
            "token": self.token,
            "subject": issued.actor.subject,
            "username": self.username,
            "client": issued.actor.client,
            "scope": detail(issued, "scope"),
            "audience": detail(issued, "audience"),
            "issued_at": issued.time.to_string(),
            "expires_at": detail(issued, "expires_at"),
            "standing": standing,
            "ended_at": ended_at,
            "steps": steps,
        })
    }
}

/// The issue of a token, and of those it was exchanged for, the newest first.
fn exchanges(plane: &Plane, token: &TokenId) -> Result<Vec<Entry>, Refusal> {
    let mut steps: Vec<Entry> = Vec::new();
    let mut wanted = token.clone();
    while steps.len() <= MAX_ACTORS {
        let is_it = |event: &Event| {
            let is_issue = is_done(event, "token.issue") || is_done(event, "token.exchange");
            is_issue && event.target.as_deref() == Some(wanted.as_str())
        };
        let Some(step) = made(plane, wanted.ulid().made_at(), wanted.as_str(), is_it)? else {
            break;
        };
        let before = event(&step).and_then(|event| detail(event, "subject_token"));
        let before = before.and_then(|before| before.parse().ok());
        steps.push(step);
        match before {
            Some(before) => wanted = before,
            None => break,
        }
    }
    Ok(steps)
}

/// What the first token of a user was given for, the newest first. A service account has only itself.
fn grounds(plane: &Plane, issued: &Event) -> Result<Vec<Entry>, Refusal> {
    let mut steps = Vec::new();
    let Some(session) = &issued.actor.session else {
        return Ok(steps);
    };
    let mut given = issued.clone();
    if detail(issued, "grant_type") == Some("refresh_token") {
        let is_first = |event: &Event| {
            is_done(event, "token.issue")
                && event.actor.session.as_ref() == Some(session)
                && detail(event, "grant_type") != Some("refresh_token")
        };
        let at = session.ulid().made_at();
        let Some(first) = made(plane, at, session.as_str(), is_first)? else {
            return Ok(steps);
        };
        given = event(&first).cloned().unwrap_or(given);
        steps.push(first);
    }
    let login = detail(&given, "authorized_by").or(detail(&given, "login"));
    let Some(login) = login.and_then(|login| login.parse::<SessionId>().ok()) else {
        return Ok(steps);
    };
    let in_login = |event: &Event| event.actor.session.as_ref() == Some(&login);
    if let Some(at) = detail(&given, "authorized_at").and_then(Timestamp::parse_rfc3339) {
        // The code or the device, and the word of the user if they were asked for it.
        let said: [&[&str]; 2] = [
            &["authorization.grant", "device.decide"],
            &["consent.decide"],
        ];
        for activities in said {
            let is_it = |event: &Event| {
                let is_one = activities.iter().any(|activity| is_done(event, activity));
                is_one && in_login(event) && event.actor.client == given.actor.client
            };
            steps.extend(made(plane, at, login.as_str(), is_it)?);
        }
    }
    let is_login = |event: &Event| {
        let is_login = event.activity.starts_with("login.") && event.outcome == Outcome::Success;
        is_login && in_login(event)
    };
    let at = login.ulid().made_at();
    steps.extend(made(plane, at, login.as_str(), is_login)?);
    Ok(steps)
}

/// Whether a token is good, and the event of its end if somebody has taken it back.
fn standing(
    plane: &Plane,
    token: &TokenId,
    issued: &Event,
) -> Result<(Standing, Option<Entry>), Refusal> {
    let expires_at = detail(issued, "expires_at").and_then(Timestamp::parse_rfc3339);
    let names = TokenNames {
        id: token,
        session: issued.actor.session.as_ref(),
        subject: issued.actor.subject.as_deref().unwrap_or_default(),
        issued_at: Timestamp::from_unix_seconds(issued.time.unix_seconds()),
    };
    let taken_back = plane
        .provider
        .taken_back(&names)
        .map_err(|fault: Fault| Refusal::internal(&fault))?;
    let Some(entry) = taken_back else {
        let is_over = expires_at.is_some_and(|end| end <= plane.clock.now());
        let standing = if is_over {
            Standing::Expired
        } else {
            Standing::Good
        };
        return Ok((standing, None));
    };
    // What ended it names the token, or whom it is about by id or, in a fleet file, by name; the session at the client is
    // in the revocation alone.
    let username = username(plane, issued);
    let named = match &entry.what {
        Revoked::Token(id) => [Some(id.as_str()), None],
        _ => [Some(names.subject), username.as_deref()],
    };
    let is_end = |event: &Event| {
        let ends = ["session.end", "revocation.", "user.", "service_account."];
        ends.iter().any(|end| event.activity.starts_with(end))
    };
    for name in named.into_iter().flatten() {
        if let Some(end) = made(plane, entry.at, name, is_end)? {
            return Ok((Standing::TakenBack(entry.at), Some(end)));
        }
    }
    Ok((Standing::TakenBack(entry.at), None))
}

/// The event nearest to `at` that has `name` and of which `is_it` holds. Only what the control plane itself reports counts: a
/// proxy that was taken over says what it likes of tokens. And only what was done in the tenant: others have theirs.
fn made(
    plane: &Plane,
    at: Timestamp,
    name: &str,
    is_it: impl Fn(&Event) -> bool,
) -> Result<Option<Entry>, Refusal> {
    let found = plane.ledger.between(at - APART, at + APART, name);
    let found = found.map_err(|error| refusal(&error))?;
    let own = found.into_iter().filter(|entry| {
        event(entry).is_some_and(|event| {
            let is_own = event.reporter == plane.reporter && event.tenant == *plane.tenant();
            is_own && is_it(event)
        })
    });
    Ok(own.min_by_key(|entry| {
        event(entry).map(|event| event.time.since(at).max(at.since(event.time)))
    }))
}

fn is_done(event: &Event, activity: &str) -> bool {
    event.activity == activity && event.outcome == Outcome::Success
}

fn event(entry: &Entry) -> Option<&Event> {
    entry.leaf.event()
}

fn detail<'e>(event: &'e Event, name: &str) -> Option<&'e str> {
    match event.details.get(name) {
        Some(Detail::Text(text)) => Some(text.as_str()),
        _ => None,
    }
}

/// The name of the user or account a token is about, if it is still there.
fn username(plane: &Plane, issued: &Event) -> Option<String> {
    let subject = issued.actor.subject.as_deref()?;
    let user = subject
        .parse()
        .ok()
        .and_then(|id| plane.provider.user(&id).ok());
    if let Some(user) = user {
        return Some(user.record.username.to_string());
    }
    let account = subject
        .parse()
        .ok()
        .and_then(|id| plane.provider.service_account(&id).ok());
    Some(account?.record.name.to_string())
}

/// A step as a sentence without an end.
fn what(event: &Event, username: Option<&str>) -> String {
    let who = username
        .or(event.actor.subject.as_deref())
        .unwrap_or("somebody");
    let client = event.actor.client.as_deref().unwrap_or("a client");
    let text = |name| detail(event, name).unwrap_or("");
    match event.activity.as_str() {
        "authorization.grant" => format!("{who} let `{client}` have {}", text("scope")),
        "consent.decide" => format!("{who} was asked, and allowed `{client}` {}", text("scope")),
        "device.decide" => format!(
            "{who} connected a device of `{client}` for {}",
            text("scope")
        ),
        "token.issue" => match text("grant_type") {
            "refresh_token" => format!("`{client}` renewed its token for {}", text("scope")),
            grant => format!(
                "`{client}` was given a token for {} by {grant}",
                text("scope")
            ),
        },
        "token.exchange" => format!(
            "`{client}` exchanged it for one for `{}` with {}, permitted by {}",
            text("audience"),
            text("scope"),
            text("policies")
        ),
        "login.upstream" => {
            let (at, subject) = (text("upstream"), text("upstream_subject"));
            match text("second_factor") {
                "" => format!("{who} logged in at {at} as {subject}"),
                second => format!("{who} logged in at {at} as {subject}, and with {second}"),
            }
        }
        login if login.starts_with("login.") => {
            let first = login.trim_start_matches("login.");
            match text("second_factor") {
                "" => format!("{who} logged in with {first}"),
                second => format!("{who} logged in with {first} and {second}"),
            }
        }
        other => match text("reason") {
            "" => format!("taken back by {other}"),
            reason => format!("taken back by {other}: {reason}"),
        },
    }
}
