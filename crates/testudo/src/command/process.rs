//! What every long-running role does: log, tell how it is, wait for the signal, stop in order.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    os::unix::net::UnixStream,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde_json::Value;
use testudo_controlplane::{Clock, Entropy, SystemEntropy};
use testudo_dataplane::{Delivered, Member, Running};
use testudo_runtime::{
    Asked, Drain, DrainSignal, LogFormat, Metrics, Readiness, Signals, Sockets, SpanSink,
    SystemClock, Tasks,
    handover::{FolderLock, Offer, Successor},
    init_tracing, span_queue,
};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{
    Invocation,
    proxy::DRAIN_TIMEOUT,
    supervisor::{News, notify},
    upgrade::{Place, start_next},
};
use crate::{
    cli::{JoinArguments, LogFormatArgument, TracingArguments},
    collector::Collector,
    failure::{Exit, Failure, Outcome},
    memory,
    ops::Ops,
};

/// What is logged unless a flag or the fleet file says otherwise.
pub const DEFAULT_FILTER: &str = "info";
/// Time for the last events and for tasks to end.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// How often threads are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Tasks that end together.
pub struct Stage {
    /// The tasks.
    pub tasks: Tasks,
    /// What they watch.
    pub drain: Drain,
    signal: DrainSignal,
}

impl Stage {
    /// A stage without tasks.
    pub fn new(readiness: &Readiness) -> Self {
        let (signal, drain) = Drain::new();
        Self {
            tasks: Tasks::new(readiness.clone(), drain.clone()),
            drain,
            signal,
        }
    }

    /// Ends the tasks.
    async fn end(self) {
        self.signal.start(END_DEADLINE).await;
        for late in self.tasks.join_all(END_DEADLINE).await {
            warn!(task = late, "did not end in time");
        }
    }
}

/// A process with a long-running role.
pub struct Process {
    /// Its tasks.
    pub stage: Stage,
    /// Counters.
    pub metrics: Metrics,
    /// Gates.
    pub readiness: Readiness,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Where health, readiness and metrics are.
    pub ops: SocketAddr,
    /// Takes trace spans, if they are exported.
    pub spans: Option<SpanSink>,
    /// What it listens on.
    pub sockets: Sockets,
    /// What a sidecar has handed to its service.
    pub delivered: Option<Arc<Delivered>>,
    /// Who answers for health, to the very end.
    ops_stage: Stage,
    /// Reads again what a proxy was given in files.
    pub refresh: Option<Box<dyn Fn() + Send + Sync>>,
    /// Signals, caught since the role said that it is ready.
    signals: OnceLock<Signals>,
    /// The data folder of a proxy, and where the process asks that is to take it over.
    place: Option<(FolderLock, Option<Offer>)>,
}

/// A proxy of this process.
pub type RunningProxy = (Running, Member);

/// How a process stops.
#[derive(Debug, Clone, Copy)]
pub struct Stopping {
    /// Time between the readiness check saying no and the listeners closing.
    delay: Duration,
    /// Time for requests under way.
    drain: Duration,
}

impl Default for Stopping {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            drain: DRAIN_TIMEOUT,
        }
    }
}

impl Stopping {
    /// As a proxy was told.
    pub const fn of(arguments: &JoinArguments) -> Self {
        Self {
            delay: arguments.stop_delay,
            drain: arguments.drain_timeout,
        }
    }
}

/// Why a process ends.
enum End {
    Asked,
    HandedOver(Successor),
    Failed,
}

impl Process {
    /// Starts logging and the ops listener. `configured` is what the fleet file says about logs; `sockets` are those
    /// that the process before handed over.
    pub fn start(
        invocation: &Invocation,
        ops: SocketAddr,
        configured: Option<(LogFormat, &str)>,
        sockets: Sockets,
    ) -> Result<Self, Failure> {
        start_logging(invocation, configured)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Metrics::new(&*clock);
        let readiness = Readiness::new();
        let ops_stage = Stage::new(&readiness);
        let listener = Ops::bind(&sockets, ops).map_err(|error| {
            Failure::new(Exit::Failed, error).help(
                "another Testudo may run on this machine; choose another address with `listen.ops` in the fleet file, \
                 or --ops for a proxy",
            )
        })?;
        let ops = listener.local_addr()?;
        let serving = Ops {
            metrics: metrics.clone(),
            readiness: readiness.clone(),
        };
        ops_stage
            .tasks
            .spawn("ops", serving.serve(listener, ops_stage.drain.watch()));
        ops_stage
            .tasks
            .spawn("memory", memory::give_back(ops_stage.drain.watch()));
        Ok(Self {
            stage: Stage::new(&readiness),
            metrics,
            readiness,
            clock,
            entropy: Arc::new(SystemEntropy),
            ops,
            spans: None,
            sockets,
            delivered: None,
            refresh: None,
            ops_stage,
            signals: OnceLock::new(),
            place: None,
        })
    }

    /// Exports trace spans from here on, if a flag or the fleet file (`configured`) names a collector.
    pub fn export_spans(
        &mut self,
        arguments: &TracingArguments,
        configured: Option<&str>,
    ) -> Outcome {
        if let Some(endpoint) = arguments.otlp_endpoint.as_deref().or(configured) {
            let collector = Collector::new(endpoint, arguments.otlp_ca.as_deref())?;
            let (sink, queue) = span_queue(&self.metrics);
            self.stage
                .tasks
                .spawn("span export", collector.export(queue));
            self.spans = Some(sink);
        }
        Ok(())
    }

    /// Serves in the place of the process before, if there is one, and offers it to the next.
    pub fn offer(&mut self, place: Place) {
        self.place = Some(place.settle());
    }

    /// Says that the role is ready: a JSON document for programs, `name  address` lines for people. Whoever reads
    /// it may stop the role at once and has it stop in order.
    pub fn ready(
        &self,
        invocation: &Invocation,
        ready: &Value,
        lines: &[(&str, String)],
    ) -> Outcome {
        let _ = self.signals.set(Signals::listen(self.place.is_some())?);
        notify(News::Ready);
        Ok(invocation.output.item(ready, |_| {
            let ops = [("health, metrics", format!("http://{}", self.ops))];
            let rows = lines.iter().chain(&ops);
            rows.map(|(name, address)| format!("  {name:<18}{address}\n"))
                .collect()
        })?)
    }

    /// Runs until a signal, until the next process has taken over, or until a worker dies; then stops the proxies, and
    /// the rest after them. `proxies` is the stage of the proxies' own tasks if it is another than the process's.
    pub async fn run(
        mut self,
        proxies: Vec<RunningProxy>,
        proxy_stage: Option<Stage>,
        stopping: Stopping,
    ) -> Outcome {
        let end = self.until_end(&proxies).await?;
        let mut ops_stage = Some(self.ops_stage);
        match end {
            End::HandedOver(successor) => {
                info!(pid = successor.pid, "another process has taken over");
                if let Some(pid) = successor.pid {
                    notify(News::SucceededBy(pid));
                }
                // What is asked at the shared socket is about the other one now.
                if let Some(stage) = ops_stage.take() {
                    stage.end().await;
                }
            }
            End::Asked | End::Failed => {
                notify(News::Stopping);
                self.readiness
                    .gate("stop")
                    .not_ready("the process is stopping");
                if matches!(end, End::Asked) {
                    tokio::time::sleep(stopping.delay).await;
                }
            }
        }
        self.sockets.close();
        // The export ends when no proxy is left that could emit a span.
        self.spans = None;
        match proxy_stage {
            Some(stage) => {
                stop_proxies(stage, proxies, stopping.drain).await;
                self.stage.end().await;
            }
            None => stop_proxies(self.stage, proxies, stopping.drain).await,
        }
        if let Some(stage) = ops_stage {
            stage.end().await;
        }
        match end {
            End::Asked | End::HandedOver(_) => Ok(()),
            End::Failed => Err(Failure::new(
                Exit::Failed,
                "a proxy worker ended by itself; the log says why",
            )),
        }
    }

    /// Lets the deliveries of a sidecar be known to the process that takes over.
    fn meet(&self, stream: UnixStream) {
        if let Some(delivered) = self.delivered.clone() {
            tokio::spawn(async move {
                if let Err(error) = delivered.share(stream).await {
                    warn!(%error, "the process that takes over cannot be told what was delivered");
                }
            });
        }
    }

    async fn until_end(&mut self, proxies: &[RunningProxy]) -> Result<End, Failure> {
        let mut signals = match self.signals.take() {
            Some(signals) => signals,
            None => Signals::listen(self.place.is_some())?,
        };
        let offer = self.place.as_ref().and_then(|(_, offer)| offer.as_ref());
        let taken = async {
            match offer {
                Some(offer) => offer.taken(&self.sockets, |stream| self.meet(stream)).await,
                None => std::future::pending().await,
            }
        };
        let died = worker_died(proxies);
        let (mut taken, mut died) = (pin!(taken), pin!(died));
        let mut next: Option<JoinHandle<()>> = None;
        loop {
            let asked = tokio::select! {
                asked = signals.next() => asked,
                successor = &mut taken => return Ok(End::HandedOver(successor)),
                () = &mut died => return Ok(End::Failed),
            };
            match asked {
                Asked::Stop(signal) => {
                    info!(%signal, "stopping");
                    return Ok(End::Asked);
                }
                Asked::Refresh => {
                    info!("getting new certificates");
                    proxies.iter().for_each(|(_, member)| member.renew_now());
                    if let Some(refresh) = &self.refresh {
                        refresh();
                    }
                }
                Asked::Upgrade if offer.is_none() => {
                    warn!(
                        "this process cannot be upgraded without a stop: only a gateway or sidecar of its own can"
                    );
                }
                Asked::Upgrade if next.as_ref().is_some_and(|next| !next.is_finished()) => {
                    warn!("another process is about to take over already");
                }
                Asked::Upgrade => match start_next() {
                    Ok(started) => next = Some(started),
                    Err(error) => warn!(%error, "the process that is to take over does not start"),
                },
            }
        }
    }
}

/// Requests under way are finished, then the last events are written and shipped.
async fn stop_proxies(stage: Stage, proxies: Vec<RunningProxy>, deadline: Duration) {
    let Stage {
        tasks,
        drain,
        signal,
    } = stage;
    let draining = tokio::spawn(signal.start(deadline));
    let mut members = Vec::new();
    for (running, member) in proxies {
        if let Ok(Err(panicked)) = tokio::task::spawn_blocking(move || running.join()).await {
            warn!(panicked, "proxy workers panicked");
        }
        members.push(member);
    }
    for member in members {
        let id = member.id();
        if !member.finish(END_DEADLINE).await {
            info!(%id, "some events stay in the spool; the next run ships them");
        }
    }
    for late in tasks.join_all(END_DEADLINE).await {
        warn!(task = late, "did not end in time");
    }
    drop(drain);
    draining.abort();
}

async fn worker_died(proxies: &[RunningProxy]) {
    loop {
        tokio::time::sleep(LOOK).await;
        if proxies.iter().any(|(running, _)| running.has_ended()) {
            return;
        }
    }
}

fn start_logging(invocation: &Invocation, configured: Option<(LogFormat, &str)>) -> Outcome {
    let flags = &invocation.logging;
    let format = match (flags.format, configured) {
        (Some(LogFormatArgument::Human), _) => LogFormat::Human,
        (Some(LogFormatArgument::Json), _) => LogFormat::Json,
        (None, Some((format, _))) => format,
        (None, None) if std::io::stderr().is_terminal() => LogFormat::Human,
        (None, None) => LogFormat::Json,
    };
    let filter = flags
        .filter
        .as_deref()
        .or(configured.map(|(_, filter)| filter))
        .unwrap_or(DEFAULT_FILTER);
    Ok(init_tracing(format, filter)?)
}
