//! What the streams of a connection share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use quinn::VarInt;
use tokio::time::Instant;

use super::code::{EXCESSIVE_LOAD, Fault, STREAM_CREATION_ERROR};
use crate::http2::{Budget, Peer, RESET};

/// Streams that a client opens once, for the whole of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    Control,
    Encoder,
    Decoder,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) quic: quinn::Connection,
    /// As with HTTP/2, what costs work and comes to nothing has a price.
    budget: Mutex<Budget>,
    lasting: Mutex<Vec<Lasting>>,
}

impl Session {
    pub(super) fn new(quic: quinn::Connection) -> Self {
        Self {
            quic,
            budget: Mutex::new(Budget::new(Peer::Client)),
            lasting: Mutex::default(),
        }
    }

    /// Notes that the client has opened `stream`.
    ///
    /// # Errors
    /// Not for the first time.
    pub(super) fn opened(&self, stream: Lasting) -> Result<(), Fault> {
        let mut lasting = self.lasting.lock().unwrap_or_else(PoisonError::into_inner);
        if lasting.contains(&stream) {
            return Err(Fault::Connection(STREAM_CREATION_ERROR));
        }
        lasting.push(stream);
        Ok(())
    }

    /// Charges for a frame, or a stream, that nobody has use for.
    ///
    /// # Errors
    /// There were too many.
    pub(super) fn useless(&self) -> Result<(), Fault> {
        self.spend(1)
    }

    /// Charges for a request that its client has broken off.
    pub(super) fn broken_off(&self) {
        if self.spend(RESET).is_err() {
            self.close(EXCESSIVE_LOAD);
        }
    }

    /// Notes a frame of an answer.
    pub(super) fn answered(&self) {
        self.budget().answered();
    }

    pub(super) fn close(&self, code: VarInt) {
        self.quic.close(code, b"");
    }

    fn spend(&self, cost: u32) -> Result<(), Fault> {
        let is_enough = self.budget().spend(cost, Instant::now);
        is_enough
            .then_some(())
            .ok_or(Fault::Connection(EXCESSIVE_LOAD))
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
