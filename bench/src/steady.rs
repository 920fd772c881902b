//! Load whose right verdicts are known: allowed and denied calls through the gateway and between services, at a steady rate
//! that does not wait for answers (a slow answer delays no other call, and its delay counts).

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    runtime::Runtime,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    Outcome,
    caller::{Caller, Origin},
    fleet::{Fleet, STRANGER},
};

/// Where forged tokens come from. An address has so many tokens verified that nobody knows yet; others who have a new one
/// must not come from there.
const FORGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// Clients of each origin. Each has one call under way, so that many may be late at once.
const CLIENTS: usize = 64;
/// Threads that make the calls.
const THREADS: usize = 2;
/// A token that nobody signed: the signature is that of nothing.
const FORGED: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2xvY2FsaG9zdCJ9.\
                      c2lnbmF0dXJlLXRoYXQtaXMtbm9uZQ";

/// The calls of a run.
pub(crate) struct Mix {
    through_gateway: Vec<Kind>,
    between_services: Vec<Kind>,
    gateway: Origin,
    forger: Origin,
    service: Origin,
}

/// Calls of one kind.
struct Kind {
    name: &'static str,
    path: &'static str,
    host: &'static str,
    user: User,
    is_allowed: bool,
    request: RwLock<Arc<[u8]>>,
}

/// Whose token a call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Nobody,
    Bench,
    Stranger,
    Forged,
}

/// What came of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Verdicts {
    /// Calls that were answered as they should be.
    pub(crate) right: u64,
    /// Calls that should have been refused, and were answered with success.
    pub(crate) wrongly_allowed: BTreeMap<String, u64>,
    /// Calls that should have been answered, and were refused.
    pub(crate) wrongly_denied: BTreeMap<String, u64>,
    /// Calls that got no verdict, by cause.
    pub(crate) errors: BTreeMap<String, u64>,
    /// The same while there was no upstream to answer.
    pub(crate) unanswerable: BTreeMap<String, u64>,
    /// Microseconds from when a call was due to its answer.
    #[serde(skip)]
    latencies: Vec<u32>,
}

/// A load that runs.
pub(crate) struct Steady {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    is_upstream_gone: Arc<AtomicBool>,
    verdicts: Arc<Mutex<Verdicts>>,
    clients: JoinSet<()>,
}

/// When which call is due.
struct Schedule {
    started: Instant,
    per_second: f64,
    next: AtomicU64,
}

impl Mix {
    /// The calls to `fleet`.
    pub(crate) fn new(fleet: &Fleet) -> Outcome<Arc<Self>> {
        use User::{Bench, Forged, Nobody, Stranger};
        let gateway =
            |name, path, user, is_allowed| Kind::new(name, "localhost", path, user, is_allowed);
        let service = |name, path, is_allowed| Kind::new(name, "echo", path, Nobody, is_allowed);
        let origin = Origin::new(fleet.gateway.address, "localhost", Some(&fleet.ca), false)?;
        let mix = Self {
            through_gateway: vec![
                gateway("open", "/open", Nobody, true),
                gateway("with a login", "/checked", Bench, true),
                gateway("without a login", "/checked", Nobody, false),
                gateway("with a login", "/checked", Bench, true),
                gateway("with another's login", "/checked", Stranger, false),
                gateway("open", "/open", Nobody, true),
                gateway("with a forged token", "/checked", Forged, false),
                gateway("nowhere", "/nowhere", Bench, false),
            ],
            between_services: vec![
                service("between services", "/open", true),
                service("between services, for itself", "/checked", false),
            ],
            forger: origin.clone().called_from(FORGER),
            gateway: origin,
            service: Origin::new(fleet.caller.address, "echo", None, false)?,
        };
        mix.renew_tokens(fleet)?;
        Ok(Arc::new(mix))
    }

    /// Gives the calls tokens that have most of their life before them.
    pub(crate) fn renew_tokens(&self, fleet: &Fleet) -> Outcome {
        let bench = fleet.fresh_token_of("bench")?;
        let stranger = fleet.fresh_token_of(STRANGER)?;
        for kind in self.through_gateway.iter().chain(&self.between_services) {
            kind.use_token(match kind.user {
                User::Nobody => None,
                User::Bench => Some(&bench),
                User::Stranger => Some(&stranger),
                User::Forged => Some(FORGED),
            });
        }
        Ok(())
    }
}

impl Kind {
    fn new(
        name: &'static str,
        host: &'static str,
        path: &'static str,
        user: User,
        is_allowed: bool,
    ) -> Self {
        Self {
            name,
            path,
            host,
            user,
            is_allowed,
            request: RwLock::new(Arc::from([])),
        }
    }

    fn use_token(&self, token: Option<&str>) {
        // To a sidecar as to any forward proxy: the absolute target.
        let target = match self.host {
            "localhost" => self.path.to_owned(),
            host => format!("http://{host}{}", self.path),
        };
        let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n{}\r\n",
            self.host,
            authorization.unwrap_or_default()
        );
        *self.request.write().unwrap_or_else(PoisonError::into_inner) = request.into_bytes().into();
    }

    /// Whether a call of this kind is to be answered so.
    fn is_right(&self, status: u16) -> bool {
        match status {
            200 => self.is_allowed,
            401 | 403 | 404 => !self.is_allowed,
            // Many at once are refused unread.
            429 => self.user == User::Forged,
            _ => false,
        }
    }

    fn request(&self) -> Arc<[u8]> {
        Arc::clone(&self.request.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Steady {
    /// Starts `mix` at `per_second` calls; as many as are answered if that is infinite.
    pub(crate) fn start(mix: &Arc<Mix>, per_second: f64) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()?;
        let stop = Arc::<AtomicBool>::default();
        let is_upstream_gone = Arc::<AtomicBool>::default();
        let verdicts = Arc::<Mutex<Verdicts>>::default();
        let schedule = Arc::new(Schedule {
            started: Instant::now(),
            per_second,
            next: AtomicU64::new(0),
        });
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let client = Client {
                mix: Arc::clone(mix),
                gateway: Caller::new(mix.gateway.clone()),
                forger: Caller::new(mix.forger.clone()),
                service: Caller::new(mix.service.clone()),
                schedule: Arc::clone(&schedule),
                stop: Arc::clone(&stop),
                is_upstream_gone: Arc::clone(&is_upstream_gone),
                verdicts: Arc::clone(&verdicts),
            };
            clients.spawn_on(client.call_until_stopped(), runtime.handle());
        }
        Ok(Self {
            runtime,
            stop,
            is_upstream_gone,
            verdicts,
            clients,
        })
    }

    /// Whether calls that get no verdict from now on are to be expected.
    pub(crate) fn expect_errors(&self, is_upstream_gone: bool) {
        self.is_upstream_gone
            .store(is_upstream_gone, Ordering::Relaxed);
    }

    /// What came so far, in a line.
    pub(crate) fn so_far(&self) -> String {
        let verdicts = lock(&self.verdicts);
        let count = |map: &BTreeMap<String, u64>| map.values().sum::<u64>();
        format!(
            "{} right, {} wrongly allowed, {} wrongly denied, {} errors, {} while the upstream was gone",
            verdicts.right,
            count(&verdicts.wrongly_allowed),
            count(&verdicts.wrongly_denied),
            count(&verdicts.errors),
            count(&verdicts.unanswerable)
        )
    }

    /// Stops, and waits for the calls that are under way.
    pub(crate) fn end(mut self) -> Verdicts {
        self.stop.store(true, Ordering::Relaxed);
        self.runtime
            .block_on(async { while self.clients.join_next().await.is_some() {} });
        let mut verdicts = std::mem::take(&mut *lock(&self.verdicts));
        verdicts.latencies.sort_unstable();
        verdicts
    }
}

/// Calls a second that the fleet answers when clients wait for nothing else.
pub(crate) fn capacity(mix: &Arc<Mix>, time: Duration) -> Outcome<f64> {
    let load = Steady::start(mix, f64::INFINITY)?;
    std::thread::sleep(time);
    let verdicts = load.end();
    if !verdicts.is_right() {
        let Verdicts {
            wrongly_allowed,
            wrongly_denied,
            errors,
            ..
        } = verdicts;
        let wrong = [wrongly_allowed, wrongly_denied, errors];
        return Err(format!("without any fault there are errors: {wrong:?}").into());
    }
    Ok(verdicts.right as f64 / time.as_secs_f64())
}

struct Client {
    mix: Arc<Mix>,
    gateway: Caller,
    forger: Caller,
    service: Caller,
    schedule: Arc<Schedule>,
    stop: Arc<AtomicBool>,
    is_upstream_gone: Arc<AtomicBool>,
    verdicts: Arc<Mutex<Verdicts>>,
}

impl Client {
    async fn call_until_stopped(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let (number, due) = self.schedule.next();
            sleep_until(due).await;
            let mix = Arc::clone(&self.mix);
            // Every fifth call is one between services.
            let is_between = number % 5 == 0;
            let kinds = match is_between {
                true => &mix.between_services,
                false => &mix.through_gateway,
            };
            let Some(kind) = kinds.get((number / 5) as usize % kinds.len()) else {
                return;
            };
            let caller = match kind.user {
                _ if is_between => &mut self.service,
                User::Forged => &mut self.forger,
                _ => &mut self.gateway,
            };
            let answered = caller.call(&kind.request()).await;
            let is_upstream_gone = self.is_upstream_gone.load(Ordering::Relaxed);
            lock(&self.verdicts).note(kind, answered, due, is_upstream_gone);
        }
    }
}

impl Schedule {
    fn next(&self) -> (u64, Instant) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if self.per_second.is_infinite() {
            return (number, Instant::now());
        }
        let due = Duration::from_secs_f64(number as f64 / self.per_second);
        (number, self.started + due)
    }
}

impl Verdicts {
    /// Whether calls were answered, and each as it should be that could be.
    pub(crate) fn is_right(&self) -> bool {
        let wrong = [&self.wrongly_allowed, &self.wrongly_denied, &self.errors];
        self.right > 0 && wrong.iter().all(|calls| calls.is_empty())
    }

    /// A percentile of the latencies in milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let index = self.latencies.len() * percent / 100;
        f64::from(self.latencies.get(index).copied().unwrap_or_default()) / 1e3
    }

    fn note(
        &mut self,
        kind: &Kind,
        answered: Result<(u16, Option<String>), String>,
        due: Instant,
        is_upstream_gone: bool,
    ) {
        let errors = match is_upstream_gone {
            true => &mut self.unanswerable,
            false => &mut self.errors,
        };
        let (status, code) = match answered {
            Ok(answered) => answered,
            Err(error) => return count(errors, error),
        };
        let described = || {
            let code = code.as_deref().unwrap_or("no code");
            format!("{}: {status} {code}", kind.name)
        };
        match (status, kind.is_allowed) {
            _ if kind.is_right(status) => {
                self.right += 1;
                let took = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
                self.latencies.push(took);
            }
            (200..=399, false) => count(&mut self.wrongly_allowed, described()),
            (401 | 403 | 404, true) => count(&mut self.wrongly_denied, described()),
            _ => count(errors, described()),
        }
    }
}

fn count(map: &mut BTreeMap<String, u64>, what: String) {
    *map.entry(what).or_default() += 1;
}

fn lock(verdicts: &Mutex<Verdicts>) -> MutexGuard<'_, Verdicts> {
    verdicts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints what came of a run.
pub(crate) fn print(out: &mut impl std::io::Write, verdicts: &Verdicts) -> Outcome {
    let (p50, p99) = (verdicts.percentile(50), verdicts.percentile(99));
    writeln!(out, "answered as they should be  {:>10}", verdicts.right)?;
    writeln!(out, "latency p50 / p99           {p50:>7.2} / {p99:.2} ms")?;
    for (title, map) in [
        ("wrongly allowed", &verdicts.wrongly_allowed),
        ("wrongly denied", &verdicts.wrongly_denied),
        ("errors", &verdicts.errors),
        ("while the upstream was gone", &verdicts.unanswerable),
    ] {
        writeln!(out, "{title:<28}{:>10}", map.values().sum::<u64>())?;
        for (what, count) in map {
            writeln!(out, "    {count:>8}  {what}")?;
        }
    }
    Ok(())
}

/// Writes `document` as JSON, if a file was named.
pub(crate) fn write_json(path: Option<&Path>, document: &impl Serialize) -> Outcome {
    if let Some(path) = path {
        std::fs::write(path, serde_json::to_vec_pretty(document)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_forged_tokens_may_be_too_many() {
        let kind = |user| Kind::new("test", "localhost", "/", user, false);
        assert!(kind(User::Forged).is_right(429));
        assert!(!kind(User::Stranger).is_right(429) && !kind(User::Nobody).is_right(429));
    }

    fn noted(is_allowed: bool, answered: Result<(u16, Option<String>), String>) -> Verdicts {
        let kind = Kind::new("test", "localhost", "/", User::Nobody, is_allowed);
        let mut verdicts = Verdicts::default();
        verdicts.note(&kind, answered, Instant::now(), false);
        verdicts
    }

    #[test]
    fn a_verdict_is_right_wrong_or_missing() {
        for (is_allowed, status) in [(true, 200), (false, 401), (false, 403), (false, 404)] {
            let verdicts = noted(is_allowed, Ok((status, None)));
            assert!(verdicts.is_right() && verdicts.right == 1);
        }
        assert_eq!(noted(false, Ok((200, None))).wrongly_allowed.len(), 1);
        assert_eq!(noted(true, Ok((403, None))).wrongly_denied.len(), 1);
        for answered in [Ok((503, None)), Ok((429, None)), Err("closed".to_owned())] {
            let verdicts = noted(true, answered);
            assert!(!verdicts.is_right() && verdicts.errors.len() == 1);
        }
    }

    #[test]
    fn only_calls_without_a_verdict_are_excused_while_the_upstream_is_gone() {
        let noted = |is_allowed, status| {
            let kind = Kind::new("test", "localhost", "/", User::Nobody, is_allowed);
            let mut verdicts = Verdicts {
                right: 1,
                ..Verdicts::default()
            };
            verdicts.note(&kind, Ok((status, None)), Instant::now(), true);
            verdicts
        };
        assert!(noted(true, 503).is_right());
        assert!(!noted(true, 403).is_right());
        assert!(!noted(false, 200).is_right());
    }

    #[test]
    fn calls_are_due_at_the_rate_whatever_was_answered() {
        let started = Instant::now();
        let schedule = Schedule {
            started,
            per_second: 10.0,
            next: AtomicU64::new(0),
        };
        let due: Vec<_> = (0..3).map(|_| schedule.next().1 - started).collect();
        assert_eq!(due, [0, 100, 200].map(Duration::from_millis));
    }
}
