//! What every long-running role does: log, tell how it is, wait for the signal, stop in order.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde_json::Value;
use testudo_controlplane::{Clock, Entropy, SystemEntropy};
use testudo_dataplane::{Member, Running};
use testudo_runtime::{
    Drain, DrainSignal, LogFormat, Metrics, Readiness, Shutdown, SpanSink, SystemClock, Tasks,
    init_tracing, span_queue,
};
use tracing::{info, warn};

use super::{Invocation, proxy::DRAIN_DEADLINE};
use crate::{
    cli::{LogFormatArgument, TracingArguments},
    collector::Collector,
    failure::{Exit, Failure, Outcome},
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
    /// Signals, caught since the role said that it is ready.
    shutdown: OnceLock<Shutdown>,
}

/// A proxy of this process.
pub type RunningProxy = (Running, Member);

impl Process {
    /// Starts logging and the ops listener. `configured` is what the fleet file says about logs.
    pub async fn start(
        invocation: &Invocation,
        ops: SocketAddr,
        configured: Option<(LogFormat, &str)>,
    ) -> Result<Self, Failure> {
        start_logging(invocation, configured)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Metrics::new(&*clock);
        let readiness = Readiness::new();
        let stage = Stage::new(&readiness);
        let listener = Ops::bind(ops).await.map_err(|error| {
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
        stage
            .tasks
            .spawn("ops", serving.serve(listener, stage.drain.watch()));
        Ok(Self {
            stage,
            metrics,
            readiness,
            clock,
            entropy: Arc::new(SystemEntropy),
            ops,
            spans: None,
            shutdown: OnceLock::new(),
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

    /// Says that the role is ready: a JSON document for programs, `name  address` lines for people. Whoever reads
    /// it may stop the role at once and has it stop in order.
    pub fn ready(
        &self,
        invocation: &Invocation,
        ready: &Value,
        lines: &[(&str, String)],
    ) -> Outcome {
        let _ = self.shutdown.set(Shutdown::listen()?);
        Ok(invocation.output.item(ready, |_| {
            let ops = [("health, metrics", format!("http://{}", self.ops))];
            let rows = lines.iter().chain(&ops);
            rows.map(|(name, address)| format!("  {name:<18}{address}\n"))
                .collect()
        })?)
    }

    /// Runs until a signal, or until a worker dies; then stops the proxies, and the rest after them.
    /// `proxies` is the stage of the proxies' own tasks if it is another than the process's.
    pub async fn run(mut self, proxies: Vec<RunningProxy>, proxy_stage: Option<Stage>) -> Outcome {
        let mut shutdown = match self.shutdown.take() {
            Some(shutdown) => shutdown,
            None => Shutdown::listen()?,
        };
        let failed = tokio::select! {
            signal = shutdown.requested() => {
                info!(%signal, "stopping");
                false
            }
            () = worker_died(&proxies) => true,
        };
        // The export ends when no proxy is left that could emit a span.
        self.spans = None;
        match proxy_stage {
            Some(stage) => {
                stop_proxies(stage, proxies).await;
                self.stage.end().await;
            }
            None => stop_proxies(self.stage, proxies).await,
        }
        if failed {
            return Err(Failure::new(
                Exit::Failed,
                "a proxy worker ended by itself; the log says why",
            ));
        }
        Ok(())
    }
}

/// Requests under way are finished, then the last events are written and shipped.
async fn stop_proxies(stage: Stage, proxies: Vec<RunningProxy>) {
    let Stage {
        tasks,
        drain,
        signal,
    } = stage;
    let draining = tokio::spawn(signal.start(DRAIN_DEADLINE));
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
