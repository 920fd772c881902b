//! Tests of policies: cases in TOML, decided by the engine in force, with the coverage they leave.
//!
//! ```toml
//! [[case]]
//! name = "a clerk reads orders through the gateway"
//! user = "carla"                  # by username; leave it out for a call without a user
//! operation = "orders:list"       # or `connect = "orders"`
//! expect = "allow"
//! because = "clerks-read-orders"  # a policy id, or a reason code such as `policy.user_required`
//!
//! [[case]]
//! name = "the catalog does not create orders, whoever asks"
//! caller = "catalog"              # default: "gateway"
//! user = "carla"
//! operation = "orders:create"
//! expect = "deny"
//!
//! [[case]]
//! name = "reports are made for carla from the inventory"
//! user = "carla"                  # whom the token is about
//! actor = "reports"               # the service account that exchanges it
//! exchange = "inventory"
//! expect = "allow"
//! ```
//!
//! Further keys override the context: `ip`, `scopes` (default: what the route requires), `assurance` (1), `time`
//! (2026-01-01T12:00:00Z), `authenticated` (= `time`), `issuer`, `bound` (false), `path` (the route's pattern),
//! `risk` (0), `verified` (true), `trust_domain` (the fleet's). Of an exchange: `ip`, `time`, `scopes` (none) and `actors`
//! (0), how many have exchanged the token before.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde::Deserialize;
use testudo_model::{
    ServiceName, Timestamp, event::DeterminingPolicy, limits, snapshot::PolicyFile,
};
use toml::{Spanned, value::Datetime};

use crate::{
    decision::{Call, Decision, GATEWAY, Peer, ReasonCode, TokenFacts},
    engine::{Exchange, PolicyEngine},
    problem::{Place, PolicyErrors, PolicyProblem},
    source::Source,
};

/// 2026-01-01T12:00:00Z, a Thursday noon.
const DEFAULT_TIME: Timestamp = Timestamp::from_unix_seconds(1_767_268_800);

/// What the cases of some test files showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestReport {
    /// Each case in order.
    pub cases: Vec<CaseReport>,
    /// Operators' policies that determined no case: untested rules.
    pub never_determining: Vec<DeterminingPolicy>,
}

/// What one case showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// Where it is written.
    pub place: Place,
    /// What was decided.
    pub decision: Decision,
    /// Why it failed; `None` if it passed.
    pub failure: Option<String>,
}

impl TestReport {
    /// Whether all cases passed.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The cases that failed.
    pub fn failures(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| case.failure.is_some())
    }
}

impl fmt::Display for TestReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            match &case.failure {
                None => writeln!(formatter, "ok    {}", case.name)?,
                Some(failure) => writeln!(
                    formatter,
                    "FAIL  {} ({})\n      {failure}",
                    case.name, case.place
                )?,
            }
        }
        let failed = self.failures().count();
        writeln!(
            formatter,
            "{} passed, {failed} failed",
            self.cases.len() - failed
        )?;
        for policy in &self.never_determining {
            writeln!(
                formatter,
                "untested: `{}` ({}:{}) determined no case",
                policy.id, policy.file, policy.line
            )?;
        }
        Ok(())
    }
}

/// Runs the cases of all `files` against `engine`.
///
/// # Errors
/// If a file is not a test file, or a case names a user, service, operation or policy that is not there. A case
/// that is decided otherwise than expected is no error but a failure in the report.
pub fn run_tests(engine: &PolicyEngine, files: &[PolicyFile]) -> Result<TestReport, PolicyErrors> {
    let mut problems = Vec::new();
    let mut cases = Vec::new();
    for file in files {
        run_file(engine, file, &mut cases, &mut problems);
    }
    if !problems.is_empty() {
        for problem in &mut problems {
            problem.show_line(files);
        }
        return Err(PolicyErrors::new(problems));
    }
    let determining: HashSet<&str> = cases
        .iter()
        .flat_map(|case| &*case.decision.legs)
        .flat_map(|leg| &leg.policies)
        .map(|policy| policy.id.as_str())
        .collect();
    let never_determining = engine
        .policies()
        .iter()
        .filter(|entry| !entry.built_in && !determining.contains(entry.determining.id.as_str()))
        .map(|entry| entry.determining.clone())
        .collect();
    Ok(TestReport {
        cases,
        never_determining,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFile {
    #[serde(default, rename = "case")]
    cases: Vec<Spanned<Case>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default = "gateway")]
    caller: String,
    user: Option<String>,
    operation: Option<String>,
    connect: Option<String>,
    exchange: Option<String>,
    actor: Option<String>,
    #[serde(default)]
    actors: usize,
    #[serde(default = "documentation_address")]
    ip: IpAddr,
    scopes: Option<Vec<String>>,
    #[serde(default = "one_factor")]
    assurance: i64,
    time: Option<Datetime>,
    authenticated: Option<Datetime>,
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    bound: bool,
    path: Option<String>,
    #[serde(default)]
    risk: i64,
    #[serde(default = "yes")]
    verified: bool,
    trust_domain: Option<String>,
    expect: Expectation,
    because: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Expectation {
    Allow,
    Deny,
}

fn gateway() -> String {
    GATEWAY.to_owned()
}

/// TEST-NET-1 of RFC 5737.
const fn documentation_address() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))
}

const fn one_factor() -> i64 {
    1
}

const fn yes() -> bool {
    true
}

fn run_file(
    engine: &PolicyEngine,
    file: &PolicyFile,
    cases: &mut Vec<CaseReport>,
    problems: &mut Vec<PolicyProblem>,
) {
    let source = Source::new(&file.name, &file.text);
    if file.text.len() > limits::MAX_POLICY_FILE_BYTES {
        let message = format!(
            "the file has {} bytes, {} are allowed",
            file.text.len(),
            limits::MAX_POLICY_FILE_BYTES
        );
        problems.push(PolicyProblem::error(
            Some(source.place(0)),
            "policy.file_too_large",
            message,
        ));
        return;
    }
    let parsed: TestFile = match toml::from_str(&file.text) {
        Ok(parsed) => parsed,
        Err(error) => {
            let place = source.place(error.span().map_or(0, |span| span.start));
            problems.push(PolicyProblem::error(
                Some(place),
                "policy.test_syntax",
                error.message(),
            ));
            return;
        }
    };
    for case in parsed.cases {
        let place = source.place(case.span().start);
        match run_case(engine, case.get_ref()) {
            Ok(decision) => {
                let case = case.into_inner();
                let failure = case.judge(engine, &decision);
                cases.push(CaseReport {
                    name: case.name,
                    place,
                    decision,
                    failure,
                });
            }
            Err(message) => {
                let message = format!("case `{}`: {message}", case.get_ref().name);
                problems.push(PolicyProblem::error(
                    Some(place),
                    "policy.test_reference",
                    message,
                ));
            }
        }
    }
}

fn run_case(engine: &PolicyEngine, case: &Case) -> Result<Decision, String> {
    if let Some(because) = &case.because
        && engine.policy_by_id(because).is_none()
        && !ReasonCode::ALL.iter().any(|code| code.as_str() == because)
    {
        return Err(format!("there is no policy `{because}`"));
    }
    let now = moment(case.time.as_ref())?.unwrap_or(DEFAULT_TIME);
    let peer = Peer {
        service: &case.caller,
        verified: case.verified,
        trust_domain: case
            .trust_domain
            .as_deref()
            .unwrap_or_else(|| engine.trust_domain()),
        certificate_expires: now + Duration::from_secs(15 * 60),
    };
    match (&case.operation, &case.connect, &case.exchange) {
        (None, Some(service), None) => {
            let service = service_named(engine, service)?;
            Ok(engine.decide_connect(&peer, service, case.ip, now))
        }
        (Some(operation), None, None) => decide_operation(engine, case, operation, peer, now),
        (None, None, Some(service)) => decide_exchange(engine, case, service, now),
        _ => Err(
            "name one of: an `operation` (`<service>:<operation>`), a service to `connect` to, a service to \
             `exchange` a token for"
                .to_owned(),
        ),
    }
}

fn decide_exchange(
    engine: &PolicyEngine,
    case: &Case,
    service: &str,
    now: Timestamp,
) -> Result<Decision, String> {
    let named = |name: &Option<String>, what: &str| {
        let name = name
            .as_deref()
            .ok_or_else(|| format!("an exchange needs {what}"))?;
        engine
            .subject_named(name)
            .ok_or_else(|| unknown_user(engine, name))
    };
    Ok(engine.decide_exchange(&Exchange {
        actor: named(&case.actor, "an `actor`, the service account")?,
        subject: named(&case.user, "a `user`, whom the token is about")?,
        service: service_named(engine, service)?,
        scopes: case.scopes.as_deref().unwrap_or_default(),
        actors: case.actors,
        source_ip: case.ip,
        now,
    }))
}

fn service_named<'e>(engine: &'e PolicyEngine, name: &str) -> Result<&'e ServiceName, String> {
    let found = engine.target(name, None);
    found
        .map(|(service, _)| service)
        .ok_or_else(|| format!("there is no service `{name}`"))
}

fn decide_operation(
    engine: &PolicyEngine,
    case: &Case,
    operation: &str,
    peer: Peer<'_>,
    now: Timestamp,
) -> Result<Decision, String> {
    let (service, target) = operation
        .split_once(':')
        .and_then(|(service, operation)| engine.target(service, Some(operation)))
        .and_then(|(service, target)| Some((service, target?)))
        .ok_or_else(|| {
            format!("there is no operation `{operation}`; operations are `<service>:<operation>`")
        })?;
    let route = &target.route;
    let subject = match &case.user {
        None => None,
        Some(username) => Some(
            engine
                .subject_named(username)
                .ok_or_else(|| unknown_user(engine, username))?,
        ),
    };
    let required = || {
        route
            .scopes
            .iter()
            .map(|scope| scope.as_str().to_owned())
            .collect()
    };
    let scopes = case.scopes.clone().unwrap_or_else(required);
    let token = TokenFacts {
        issuer: &case.issuer,
        scopes: &scopes,
        assurance: case.assurance,
        authenticated_at: moment(case.authenticated.as_ref())?.unwrap_or(now),
        bound: case.bound,
    };
    Ok(engine.decide(&Call {
        peer,
        subject,
        token: subject.map(|_| token),
        service,
        route,
        source_ip: case.ip,
        now,
        path: case.path.as_deref().unwrap_or_else(|| route.path.as_str()),
        risk: case.risk,
    }))
}

fn unknown_user(engine: &PolicyEngine, username: &str) -> String {
    let similar: BTreeMap<_, _> = engine
        .usernames()
        .map(|known| (strsim::damerau_levenshtein(known, username), known))
        .collect();
    match similar.first_key_value() {
        Some((distance, known)) if *distance <= 2 => {
            format!("there is no user `{username}`; did you mean `{known}`?")
        }
        _ => format!("there is no user `{username}`"),
    }
}

fn moment(written: Option<&Datetime>) -> Result<Option<Timestamp>, String> {
    let Some(written) = written else {
        return Ok(None);
    };
    match Timestamp::parse_rfc3339(&written.to_string()) {
        Some(moment) => Ok(Some(moment)),
        None => Err(format!(
            "`{written}` is not a moment; write date, time and offset: 2026-01-01T12:00:00Z"
        )),
    }
}

impl Case {
    /// Why the decision is not the expected one; `None` if it is.
    fn judge(&self, engine: &PolicyEngine, decision: &Decision) -> Option<String> {
        let explained = || {
            decision
                .legs
                .iter()
                .map(|leg| engine.explain(leg, decision.context.as_deref()))
                .collect::<String>()
        };
        let verdict = if decision.allowed {
            "allowed"
        } else {
            "denied"
        };
        if decision.allowed != (self.expect == Expectation::Allow) {
            let text = format!("was {verdict} ({})\n{}", decision.reason, explained());
            return Some(indented(&text));
        }
        let because = self.because.as_deref()?;
        let determined = decision
            .legs
            .iter()
            .flat_map(|leg| &leg.policies)
            .any(|policy| policy.id == because);
        if determined || decision.reason.as_str() == because {
            return None;
        }
        let text = format!(
            "was {verdict} as expected, but not because of `{because}`\n{}",
            explained()
        );
        Some(indented(&text))
    }
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n      ")
}
