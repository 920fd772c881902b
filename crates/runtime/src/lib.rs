//! What every role of the binary needs before it can serve: configuration, telemetry, readiness, drain and
//! supervised tasks.
//!
//! * [`fleet`] reads the fleet file: text to validated model types, with every mistake named and located.
//! * [`Metrics`], [`init_tracing`], [`TraceContext`] and [`SpanSink`] are what the outside sees of a process.
//! * [`with_causes`] is how an error is shown to people.
//! * [`Sockets`] and [`handover`] are how the next process of a role takes over without closing a port.
//! * [`Readiness`], [`Drain`] and [`Tasks`] are its life: when it may get traffic, how it stops, who does what.
//!
//! Nothing here knows a server, a policy engine or a database.

mod causes;
mod clock;
mod descriptors;
mod drain;
mod environment;
mod metrics;
mod otlp;
mod process;
mod readiness;
mod signal;
mod sockets;
mod spans;
mod tasks;
mod telemetry;
mod trace;

pub mod fleet;
pub mod handover;

pub use causes::{causes, with_causes};
pub use clock::SystemClock;
pub use descriptors::{descriptor_limit, raise_descriptor_limit};
pub use drain::{Drain, DrainOutcome, DrainSignal, DrainWatch};
pub use environment::Environment;
pub use metrics::Metrics;
pub use prometheus_client;
pub use readiness::{Gate, Readiness};
pub use signal::{Asked, ShutdownSignal, Signals};
pub use sockets::Sockets;
pub use spans::{
    Attribute, AttributeValue, Emitter, Span, SpanBatch, SpanKind, SpanQueue, SpanSink, span_queue,
};
pub use tasks::{TaskEnd, Tasks};
pub use telemetry::{InvalidLogFilter, LogFormat, init_tracing};
pub use trace::TraceContext;
