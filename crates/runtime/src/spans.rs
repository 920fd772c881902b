//! Trace spans on their way out of the process: workers put them into a bounded queue and never wait, an exporter
//! takes them out in batches. A span is an aid for people, not evidence: what does not fit is dropped and counted.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use testudo_model::Clock;
use tokio::{sync::mpsc, time::Instant};

use crate::{Metrics, TraceContext, otlp};

/// Spans that wait for the exporter; about 1 KiB each. Four times the default of OpenTelemetry's batch processor:
/// a proxy makes more of them than an application.
const QUEUE_SPANS: usize = 8_192;
/// Spans in one export: OpenTelemetry's default.
const BATCH_SPANS: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The wall clock was set if it is off by more than this from where the monotonic clock says it should be.
const CLOCK_STEP_NANOS: u64 = 100_000_000;

/// What somebody did in a trace, and when.
#[derive(Debug, Clone)]
pub struct Span {
    /// Whose span it is.
    pub emitter: Arc<Emitter>,
    /// Trace id, the span's own id, trace state.
    pub context: TraceContext,
    /// The span it is part of; `None` for the first of a trace.
    pub parent: Option<TraceContext>,
    /// Which side of a call it is.
    pub kind: SpanKind,
    /// Method and route: few values, so that a collector can group by it.
    pub name: String,
    /// Nanoseconds since the Unix epoch.
    pub start_unix_nanos: u64,
    /// Nanoseconds since the Unix epoch.
    pub end_unix_nanos: u64,
    /// By the semantic conventions of OpenTelemetry where they have a name for it.
    pub attributes: Vec<Attribute>,
    /// Whether it failed.
    pub is_error: bool,
}

/// Who emits spans: the `Resource` of OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitter {
    /// `service.name`.
    pub service: String,
    /// SPIFFE id.
    pub spiffe_id: String,
}

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Answers a request.
    Server,
    /// Makes one.
    Client,
}

/// Name and value.
pub type Attribute = (&'static str, AttributeValue);

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// A string.
    Text(Cow<'static, str>),
    /// A whole number.
    Integer(i64),
}

impl From<&'static str> for AttributeValue {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<u16> for AttributeValue {
    fn from(number: u16) -> Self {
        Self::Integer(number.into())
    }
}

/// Both ends of a queue for spans, whose losses are counted in `metrics`.
pub fn span_queue(metrics: &Metrics) -> (SpanSink, SpanQueue) {
    let (sender, receiver) = mpsc::channel(QUEUE_SPANS);
    let counters = Counters::register(metrics);
    let sink = SpanSink {
        sender,
        counters: counters.clone(),
        wall: Arc::new(AtomicI64::new(i64::MIN)),
    };
    (sink, SpanQueue { receiver, counters })
}

/// Where spans are put. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SpanSink {
    sender: mpsc::Sender<Span>,
    counters: Counters,
    /// Unix time at the zero of the monotonic clock, in nanoseconds; shared, so that the spans of all proxies of a
    /// process lie in one order.
    wall: Arc<AtomicI64>,
}

impl SpanSink {
    /// Takes `span` for export, or drops it if the exporter is behind. Never waits.
    pub fn emit(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            self.counters.drop(Loss::QueueFull, 1);
        }
    }

    /// Now, in nanoseconds since the Unix epoch. The wall clock of [`Clock`] counts milliseconds, in which a call
    /// inside a host begins and ends; the monotonic clock tells the rest.
    pub fn now_unix_nanos(&self, clock: &dyn Clock) -> u64 {
        let monotonic = i64::try_from(clock.monotonic_nanos()).unwrap_or(i64::MAX);
        let measured = clock.now().unix_millis().saturating_mul(1_000_000) - monotonic;
        let kept = self.wall.load(Ordering::Relaxed);
        let zero = if kept.abs_diff(measured) > CLOCK_STEP_NANOS {
            self.wall.store(measured, Ordering::Relaxed);
            measured
        } else {
            kept
        };
        u64::try_from(zero.saturating_add(monotonic)).unwrap_or(0)
    }
}

/// Where the exporter takes spans from.
#[derive(Debug)]
pub struct SpanQueue {
    receiver: mpsc::Receiver<Span>,
    counters: Counters,
}

impl SpanQueue {
    /// The next spans, at least one; `None` when every sink is gone and the queue is empty.
    pub async fn next_batch(&mut self) -> Option<SpanBatch> {
        let mut spans = vec![self.receiver.recv().await?];
        let until = Instant::now() + BATCH_INTERVAL;
        while spans.len() < BATCH_SPANS {
            let room = BATCH_SPANS - spans.len();
            let more = self.receiver.recv_many(&mut spans, room);
            if !matches!(tokio::time::timeout_at(until, more).await, Ok(1..)) {
                break;
            }
        }
        Some(SpanBatch {
            spans,
            counters: self.counters.clone(),
        })
    }

    /// Whether every sink is gone: the process is stopping.
    pub fn is_closed(&self) -> bool {
        self.receiver.is_closed()
    }
}

/// Spans that are exported together. Each is counted when it is known what became of it.
#[derive(Debug)]
pub struct SpanBatch {
    spans: Vec<Span>,
    counters: Counters,
}

impl SpanBatch {
    /// The body of an OTLP/HTTP request in JSON encoding.
    pub fn to_otlp_json(&self) -> Vec<u8> {
        otlp::trace_request(&self.spans)
    }

    /// The collector has it, but for `rejected` spans.
    pub fn delivered(self, rejected: u64) {
        let all = u64::try_from(self.spans.len()).unwrap_or(u64::MAX);
        let rejected = rejected.min(all);
        self.counters.exported.inc_by(all - rejected);
        self.counters.drop(Loss::Rejected, rejected);
    }

    /// The collector refused it.
    pub fn rejected(self) {
        self.delivered(u64::MAX);
    }

    /// The collector could not be reached.
    pub fn undelivered(self) {
        let all = u64::try_from(self.spans.len()).unwrap_or(u64::MAX);
        self.counters.drop(Loss::Unreachable, all);
    }
}

/// Why spans were lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    QueueFull,
    Unreachable,
    Rejected,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LossLabels {
    reason: &'static str,
}

#[derive(Debug, Clone)]
struct Counters {
    exported: Counter,
    dropped: Family<LossLabels, Counter>,
}

impl Counters {
    fn register(metrics: &Metrics) -> Self {
        Self {
            exported: metrics.register(
                "spans_exported",
                "Trace spans the collector has accepted",
                Counter::default(),
            ),
            dropped: metrics.register(
                "spans_dropped",
                "Trace spans lost on the way to the collector",
                Family::default(),
            ),
        }
    }

    fn drop(&self, loss: Loss, spans: u64) {
        let reason = match loss {
            Loss::QueueFull => "queue_full",
            Loss::Unreachable => "unreachable",
            Loss::Rejected => "rejected",
        };
        if spans > 0 {
            self.dropped
                .get_or_create(&LossLabels { reason })
                .inc_by(spans);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use testudo_model::{Entropy, Timestamp};

    use super::*;
    use crate::SystemClock;

    struct Sevens;
    impl Entropy for Sevens {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(7);
        }
    }

    /// Milliseconds of the wall clock, nanoseconds of the monotonic one.
    struct SetClock(AtomicI64, AtomicU64);
    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_millis(self.0.load(Ordering::Relaxed))
        }
        fn monotonic_nanos(&self) -> u64 {
            self.1.load(Ordering::Relaxed)
        }
    }

    fn span() -> Span {
        Span {
            emitter: Arc::new(Emitter {
                service: "orders".to_owned(),
                spiffe_id: "spiffe://a.example/services/orders".to_owned(),
            }),
            context: TraceContext::begin(&Sevens),
            parent: None,
            kind: SpanKind::Server,
            name: "GET".to_owned(),
            start_unix_nanos: 1,
            end_unix_nanos: 2,
            attributes: Vec::new(),
            is_error: false,
        }
    }

    #[tokio::test]
    async fn spans_leave_in_batches_and_the_last_ones_leave_at_the_end() {
        let (sink, mut queue) = span_queue(&Metrics::new(&SystemClock::new()));
        for _ in 0..BATCH_SPANS + 3 {
            sink.emit(span());
        }
        assert_eq!(queue.next_batch().await.unwrap().spans.len(), BATCH_SPANS);
        assert_eq!(queue.next_batch().await.unwrap().spans.len(), 3);
        sink.emit(span());
        drop(sink);
        assert!(queue.is_closed());
        assert_eq!(queue.next_batch().await.unwrap().spans.len(), 1);
        assert!(queue.next_batch().await.is_none());
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_and_every_end_of_a_batch_is_counted() {
        let metrics = Metrics::new(&SystemClock::new());
        let (sink, mut queue) = span_queue(&metrics);
        for _ in 0..QUEUE_SPANS + 5 {
            sink.emit(span());
        }
        queue.next_batch().await.unwrap().delivered(2);
        queue.next_batch().await.unwrap().undelivered();
        queue.next_batch().await.unwrap().rejected();
        let page = metrics.encode();
        for line in [
            "testudo_spans_dropped_total{reason=\"queue_full\"} 5",
            "testudo_spans_dropped_total{reason=\"unreachable\"} 512",
            "testudo_spans_dropped_total{reason=\"rejected\"} 514",
            "testudo_spans_exported_total 510",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }

    #[test]
    fn span_times_are_finer_than_the_wall_clock_and_follow_it_when_it_is_set() {
        let (sink, _queue) = span_queue(&Metrics::new(&SystemClock::new()));
        let clock = SetClock(AtomicI64::new(1_000), AtomicU64::new(500));
        assert_eq!(sink.now_unix_nanos(&clock), 1_000_000_000);
        clock.1.store(700, Ordering::Relaxed);
        assert_eq!(sink.now_unix_nanos(&clock), 1_000_000_200);
        clock.0.store(5_000, Ordering::Relaxed);
        assert_eq!(sink.now_unix_nanos(&clock), 5_000_000_000);
    }
}
