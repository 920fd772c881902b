//! One change: records, revocations and the events that report them, committed together.

use std::{collections::BTreeMap, time::Duration};

use testudo_model::{
    EventId, SessionId, TenantName, Timestamp,
    event::{Actor, Detail, Event, EventClass, Outcome},
    limits::{ACCESS_TOKEN_LIFETIME, CLOCK_SKEW, TRANSACTION_TOKEN_LIFETIME},
    snapshot::Revoked,
};
use testudo_store::{Expected, Record, StoreError, Transaction};

use crate::{
    Caller, Fault, Provider, limits::MAX_ATTEMPTS, notice::Notice, revocation::RevocationEntry,
    signal::Streams,
};

/// What an event says; the provider adds id, time, tenant, reporter and the caller.
pub(crate) struct Report {
    class: EventClass,
    activity: String,
    outcome: Outcome,
    subject: Option<String>,
    client: Option<String>,
    session: Option<SessionId>,
    target: Option<String>,
    details: BTreeMap<String, Detail>,
}

impl Report {
    /// A success of `activity`; see [`Report::denied`].
    pub(crate) fn new(class: EventClass, activity: impl Into<String>) -> Self {
        Self {
            class,
            activity: activity.into(),
            outcome: Outcome::Success,
            subject: None,
            client: None,
            session: None,
            target: None,
            details: BTreeMap::new(),
        }
    }

    pub(crate) fn denied(mut self, reason: &str) -> Self {
        self.outcome = Outcome::Denied;
        self.detail("reason", reason)
    }

    /// It was right to try, and did not work.
    pub(crate) fn failed(mut self, reason: &str) -> Self {
        self.outcome = Outcome::Failure;
        self.detail("reason", reason)
    }

    pub(crate) fn subject(mut self, subject: &str) -> Self {
        self.subject = Some(subject.to_owned());
        self
    }

    pub(crate) fn client(mut self, client: &str) -> Self {
        self.client = Some(client.to_owned());
        self
    }

    pub(crate) fn session(mut self, session: &SessionId) -> Self {
        self.session = Some(session.clone());
        self
    }

    pub(crate) fn target(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    pub(crate) fn detail(mut self, name: &str, value: impl Into<Detail>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// Writes that are committed together or not at all.
pub(crate) struct Change<'p> {
    provider: &'p Provider,
    transaction: Transaction,
    /// Those of the transaction: they are in no queue before it is committed.
    notices: Vec<Notice>,
    /// Whom its signals go to, once it has any.
    streams: Streams,
}

impl Provider {
    /// An empty change.
    pub(crate) fn change(&self) -> Change<'_> {
        Change {
            provider: self,
            transaction: self.tenant.transaction(),
            notices: Vec::new(),
            streams: Streams::default(),
        }
    }

    /// Records an event that reports no change, such as a refusal.
    pub(crate) fn report(&self, report: Report, caller: &Caller) -> Result<(), Fault> {
        until_settled(|| {
            Ok(self
                .change()
                .report_ref(&report, caller)
                .commit()?
                .then_some(()))
        })
    }
}

impl<'p> Change<'p> {
    pub(crate) const fn provider(&self) -> &'p Provider {
        self.provider
    }

    pub(crate) const fn notices(&mut self) -> &mut Vec<Notice> {
        &mut self.notices
    }

    pub(crate) const fn streams(&mut self) -> &mut Streams {
        &mut self.streams
    }

    pub(crate) fn put<R: Record>(mut self, expected: Expected, record: &R) -> Self {
        self.transaction = self.transaction.put(expected, record);
        self
    }

    pub(crate) fn delete<R: Record>(mut self, expected: Expected, key: &str) -> Self {
        self.transaction = self.transaction.delete::<R>(expected, key);
        self
    }

    /// Takes tokens back at every proxy: those follow one log, whatever the tenant. The entry outlives the longest-lived token it can concern.
    pub(crate) fn revoke(self, what: Revoked) -> Self {
        let longest: Duration = ACCESS_TOKEN_LIFETIME + TRANSACTION_TOKEN_LIFETIME + CLOCK_SKEW;
        let expires = self.provider.clock.now() + longest;
        self.revoke_until(expires, what)
    }

    /// The same of what lives until `expires`, or is known to proxies until then.
    pub(crate) fn revoke_until(mut self, expires: Timestamp, what: Revoked) -> Self {
        let at = self.provider.clock.now();
        let entry = RevocationEntry { at, expires, what };
        let fleet = TenantName::default_tenant();
        self.transaction = self.transaction.append_in(&fleet, &entry);
        self
    }

    pub(crate) fn report(self, report: Report, caller: &Caller) -> Self {
        self.report_ref(&report, caller)
    }

    pub(crate) fn report_ref(mut self, report: &Report, caller: &Caller) -> Self {
        let event = self.provider.event(report, caller);
        self.transaction = self.provider.journal.record(self.transaction, &event);
        self
    }

    /// Commits. `false`: somebody else changed one of the records meanwhile; nothing was written.
    pub(crate) fn commit(self) -> Result<bool, Fault> {
        match self.transaction.commit() {
            Ok(_) => {
                self.provider.notices.add(self.notices);
                Ok(true)
            }
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Provider {
    fn event(&self, report: &Report, caller: &Caller) -> Event {
        let known = &caller.actor;
        Event {
            id: EventId::generate(&*self.clock, &*self.entropy),
            time: self.clock.now(),
            tenant: self.settings.tenant.clone(),
            class: report.class,
            activity: report.activity.clone(),
            outcome: report.outcome,
            actor: Actor {
                subject: report.subject.clone().or_else(|| known.subject.clone()),
                workload: known.workload.clone(),
                client: report.client.clone().or_else(|| known.client.clone()),
                session: report.session.clone().or_else(|| known.session.clone()),
            },
            target: report.target.clone(),
            reporter: self.settings.reporter.clone(),
            source_ip: caller.source_ip,
            trace_id: caller.trace_id.clone(),
            transaction: None,
            decision: None,
            details: report.details.clone(),
        }
    }
}

/// Repeats `attempt` while it answers `None` (somebody else was faster), a bounded number of times.
pub(crate) fn until_settled<T, E: From<Fault>>(
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<T, E> {
    for _ in 0..MAX_ATTEMPTS {
        if let Some(done) = attempt()? {
            return Ok(done);
        }
    }
    Err(Fault::Contended.into())
}
