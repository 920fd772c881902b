//! Streams as administrators see them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use testudo_model::{StreamId, Timestamp};
use testudo_store::{Cursor, Page, Versioned};

use super::SignalStream;
use crate::{AdminError, Provider, Receiver, admin::Named};

/// What became of the last attempt to deliver something, as far as this process knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastDelivery {
    /// When.
    pub at: Timestamp,
    /// Why it was not taken, if so.
    pub failure: Option<String>,
}

/// The last deliveries of all streams: it costs no write, and means little after a restart.
#[derive(Default)]
pub(crate) struct Deliveries(Mutex<BTreeMap<StreamId, LastDelivery>>);

impl Deliveries {
    pub(crate) fn note(&self, stream: &StreamId, at: Timestamp, failure: Option<String>) {
        self.lock()
            .insert(stream.clone(), LastDelivery { at, failure });
    }

    /// The stream is gone.
    pub(super) fn forget(&self, stream: &StreamId) {
        self.lock().remove(stream);
    }

    fn of(&self, stream: &StreamId) -> Option<LastDelivery> {
        self.lock().get(stream).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StreamId, LastDelivery>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream, and how it goes with it.
#[derive(Debug, Clone)]
pub struct StreamView {
    /// Name of the service account that receives; none if there is none any more.
    pub receiver: Option<String>,
    /// Signals that wait for it.
    pub waiting: usize,
    /// What became of the last one.
    pub last_delivery: Option<LastDelivery>,
}

impl Provider {
    /// A page of streams, in order of creation.
    ///
    /// # Errors
    /// The store fails.
    pub fn signal_streams(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<SignalStream>, AdminError> {
        self.page(after, limit)
    }

    /// A stream.
    ///
    /// # Errors
    /// There is none.
    pub fn signal_stream(&self, id: &StreamId) -> Result<Versioned<SignalStream>, AdminError> {
        let named = Named {
            kind: "signal stream",
            name: id.as_str(),
        };
        self.load(named, id.as_str())
    }

    /// How it goes with a stream.
    pub fn signal_stream_view(&self, stream: &SignalStream) -> StreamView {
        let account = self.service_account(&stream.receiver);
        StreamView {
            receiver: account.ok().map(|account| account.record.name.to_string()),
            waiting: self
                .notices
                .waiting_for(&Receiver::Stream(stream.id.clone())),
            last_delivery: self.deliveries.of(&stream.id),
        }
    }

    /// How many signals wait, as far as is known without asking the store.
    pub fn waiting_signals(&self) -> usize {
        self.notices.waiting_signals()
    }
}
