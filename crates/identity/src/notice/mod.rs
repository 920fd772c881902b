//! What somebody outside must be told, until they have taken it.
//!
//! A [`Notice`] is a record that is written in the transaction of what it tells: nothing happens without being told, and
//! no crash forgets it. Who carries notices (`controlplane`) asks for those that are [due](Provider::due_notices), sends
//! each, and says [what became of it](Provider::settle_notice); then the record goes, or the receiver gets a pause that
//! doubles each time.
//!
//! A notice arrives at least once: who dies between sending and settling sends it again, and so do two processes on one
//! store. One receiver gets one at a time, in the order of what they tell, and never holds up another.

mod backchannel_logout;
mod queue;

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use testudo_model::{
    ClientName, NoticeId, Redacted, SessionId, StreamId, Timestamp, UserId, event::EventClass,
};
use testudo_store::{Expected, Record};

pub(crate) use self::queue::Queues;
use crate::{
    Caller, Fault, Provider,
    change::{Change, Report, until_settled},
    limits::{
        FIRST_NOTICE_PAUSE, MAX_MAILS_PER_ADDRESS, MAX_MAILS_UNDER_WAY, MAX_NOTICE_PAUSE,
        MAX_NOTICES_PER_RECEIVER, MAX_NOTICES_UNDER_WAY, NOTICE_LIFETIME, SIGNAL_LIFETIME,
    },
    mail::{Letter, letter_report, mail_key},
    signal::{Signal, push_refusal, signal_report},
};

/// Something to tell, as it waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Its id; sorts by the time of making.
    pub id: NoticeId,
    /// What it tells.
    pub content: NoticeContent,
    /// When what it tells happened.
    pub created_at: Timestamp,
}

/// What a notice tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeContent {
    /// To a client, that a session it knows has ended (OpenID Connect Back-Channel Logout 1.0).
    BackchannelLogout {
        /// The client.
        client_id: ClientName,
        /// Making time of that client: a later one of the same name is told nothing.
        client_created_at: Timestamp,
        /// Whose session.
        user: UserId,
        /// The `sid` of its tokens.
        session: SessionId,
    },
    /// To a mail address, about an account.
    Mail {
        /// The account.
        user: UserId,
        /// The address.
        address: String,
        /// What about it.
        letter: Letter,
    },
    /// To ourselves, that somebody has forgotten a password: who that is, is found out when nobody waits for it.
    ForgottenPassword {
        /// What was typed.
        typed: String,
        /// From where.
        source: Option<IpAddr>,
    },
    /// To the receiver of a stream, that something has happened (SSF 1.0).
    Signal {
        /// The stream.
        stream: StreamId,
        /// What has happened.
        signal: Signal,
    },
}

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Receiver {
    /// A client.
    Client(ClientName),
    /// Whoever has a mail address.
    Mailbox(String),
    /// This provider.
    Ourselves,
    /// Whoever has a stream of signals.
    Stream(StreamId),
}

/// How notices are carried. One way never holds up another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// With requests.
    Http,
    /// With letters.
    Mail,
}

impl Lane {
    /// Notices that are carried at the same time.
    const fn width(self) -> usize {
        match self {
            Self::Http => MAX_NOTICES_UNDER_WAY,
            Self::Mail => MAX_MAILS_UNDER_WAY,
        }
    }
}

impl Receiver {
    const fn lane(&self) -> Lane {
        match self {
            Self::Client(_) | Self::Stream(_) => Lane::Http,
            Self::Mailbox(_) | Self::Ourselves => Lane::Mail,
        }
    }

    /// Notices that may wait for it.
    const fn patience(&self) -> usize {
        match self {
            Self::Client(_) | Self::Ourselves | Self::Stream(_) => MAX_NOTICES_PER_RECEIVER,
            Self::Mailbox(_) => MAX_MAILS_PER_ADDRESS,
        }
    }
}

impl Notice {
    /// Who is told.
    pub fn receiver(&self) -> Receiver {
        match &self.content {
            NoticeContent::BackchannelLogout { client_id, .. } => {
                Receiver::Client(client_id.clone())
            }
            NoticeContent::Mail { address, .. } => Receiver::Mailbox(mail_key(address)),
            NoticeContent::ForgottenPassword { .. } => Receiver::Ourselves,
            NoticeContent::Signal { stream, .. } => Receiver::Stream(stream.clone()),
        }
    }

    /// The event of telling it.
    pub(crate) fn report(&self) -> Report {
        match &self.content {
            NoticeContent::BackchannelLogout {
                client_id,
                user,
                session,
                ..
            } => Report::new(EventClass::Authentication, "logout.notify")
                .subject(user.as_str())
                .session(session)
                .target(client_id.as_str())
                .detail("notice", self.id.as_str()),
            NoticeContent::Mail { user, letter, .. } => {
                letter_report(user, letter).detail("notice", self.id.as_str())
            }
            NoticeContent::ForgottenPassword { .. } => {
                Report::new(EventClass::Authentication, "password.forgotten")
            }
            NoticeContent::Signal { stream, signal } => signal_report(&self.id, stream, signal),
        }
    }

    /// Time after which it is given up.
    const fn lifetime(&self) -> Duration {
        match self.content {
            NoticeContent::Signal { .. } => SIGNAL_LIFETIME,
            _ => NOTICE_LIFETIME,
        }
    }
}

impl Record for Notice {
    const COLLECTION: &'static str = "identity.notice";

    fn key(&self) -> String {
        self.id.to_string()
    }
}

/// A notice that is to be sent now.
#[derive(Debug)]
pub struct DueNotice {
    /// The notice.
    pub notice: Notice,
    /// What to send.
    pub message: Message,
}

impl DueNotice {
    /// What an answer with this status and body comes to.
    pub fn answered(&self, status: u16, body: &[u8]) -> Delivery {
        match (&self.notice.content, status) {
            (NoticeContent::Signal { .. }, 400) => push_refusal(body),
            _ => Delivery::Answered(status),
        }
    }
}

/// An HTTP request that tells a notice: `POST`, and the answer's body does not matter.
#[derive(Debug)]
pub struct Message {
    /// Where to.
    pub url: String,
    /// `Content-Type`.
    pub media_type: &'static str,
    /// `Authorization`, if the receiver wants one.
    pub authorization: Option<Redacted<String>>,
    /// The body.
    pub body: Redacted<String>,
}

/// What is to be done about a notice whose turn it is.
pub(crate) enum Prepared<M> {
    /// This is to be sent.
    Ready(M),
    /// Not now: its receiver comes for it, or wants to wait. Nothing is to be sent to it for a while.
    Held,
    /// Nobody is to be told any more; why. It is not discarded yet.
    Gone(&'static str),
    /// Nothing that waits for this stream of signals is to be told any more; why.
    Closed(&'static str),
    /// It needs not be told any more, and is not there any more.
    Done,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The receiver has answered, with this status.
    Answered(u16),
    /// It could not be reached, did not answer, or must not be asked; why.
    Failed(String),
    /// It says that it will not take it later either; how it says so.
    Refused(String),
    /// The letter was taken.
    Taken,
}

/// What an attempt comes to.
enum Verdict {
    /// It has been told.
    Taken,
    /// The receiver does not want it, and will not want it later: 400 says so in all protocols that notices are told with
    /// (OpenID Connect Back-Channel Logout section 2.8, RFC 8935 section 2.4).
    Refused(String),
    /// Somebody in between may have answered, or nobody has.
    Again(String),
}

impl Delivery {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Answered(200..=299) | Self::Taken => Verdict::Taken,
            Self::Answered(400) => {
                Verdict::Refused("the receiver refuses it with status 400".to_owned())
            }
            Self::Refused(how) => Verdict::Refused(how.clone()),
            Self::Answered(status) => Verdict::Again(format!("it answered with status {status}")),
            Self::Failed(why) => Verdict::Again(why.clone()),
        }
    }
}

impl Provider {
    /// Notices to be sent now, at most one of each receiver, and not those that are being sent already. Each must be
    /// [settled](Self::settle_notice).
    ///
    /// # Errors
    /// The store fails.
    pub fn due_notices(&self) -> Result<Vec<DueNotice>, Fault> {
        let due = self.due(Lane::Http, |notice| self.message_of(notice))?;
        let due = due.into_iter();
        Ok(due
            .map(|(notice, message)| DueNotice { notice, message })
            .collect())
    }

    /// What is to be sent now of one lane, as `prepare` makes it.
    pub(crate) fn due<M>(
        &self,
        lane: Lane,
        prepare: impl Fn(&Notice) -> Result<Prepared<M>, Fault>,
    ) -> Result<Vec<(Notice, M)>, Fault> {
        self.notices
            .read(&self.tenant, self.clock.monotonic_nanos())?;
        let mut due: Vec<(Notice, M)> = Vec::new();
        let free = lane.width().saturating_sub(self.notices.under_way(lane));
        for _ in 0..free {
            let now = self.clock.monotonic_nanos();
            let Some(notice) = self.notices.take(lane, now) else {
                break;
            };
            match self.prepared(&notice, &prepare) {
                Ok(Prepared::Ready(message)) => due.push((notice, message)),
                Ok(Prepared::Held) => self.notices.hold(&notice, now),
                Ok(Prepared::Gone(_) | Prepared::Closed(_) | Prepared::Done) => {
                    self.notices.done(&notice);
                }
                Err(fault) => {
                    let now = self.clock.monotonic_nanos();
                    self.notices.postpone(&notice, now);
                    for (other, _) in &due {
                        self.notices.give_back(other);
                    }
                    return Err(fault);
                }
            }
        }
        Ok(due)
    }

    fn prepared<M>(
        &self,
        notice: &Notice,
        prepare: impl Fn(&Notice) -> Result<Prepared<M>, Fault>,
    ) -> Result<Prepared<M>, Fault> {
        if self.tenant.get::<Notice>(notice.id.as_str())?.is_none() {
            return Ok(Prepared::Done);
        }
        let prepared = if self.clock.now().since(notice.created_at) >= notice.lifetime() {
            Prepared::Gone("it has not been taken in time")
        } else {
            prepare(notice)?
        };
        match prepared {
            Prepared::Gone(why) => self.discard(notice, notice.report().failed(why))?,
            Prepared::Closed(why) => self.discard_signals(notice, why)?,
            Prepared::Ready(_) | Prepared::Held | Prepared::Done => {}
        }
        Ok(prepared)
    }

    /// Whether [`Provider::due_notices`] has any, as far as is known without asking the store.
    pub fn has_due_notice(&self) -> bool {
        self.has_due(Lane::Http)
    }

    pub(crate) fn has_due(&self, lane: Lane) -> bool {
        let now = self.clock.monotonic_nanos();
        self.notices.under_way(lane) < lane.width() && self.notices.has_ready(lane, now)
    }

    /// Takes note of what became of a notice: it is gone, or comes again after a pause.
    ///
    /// # Errors
    /// The store fails; the notice comes again.
    pub fn settle_notice(&self, due: &DueNotice, delivery: &Delivery) -> Result<(), Fault> {
        let report = due.notice.report();
        let report = report.detail("uri", due.message.url.as_str());
        self.settle(&due.notice, report, delivery)
    }

    pub(crate) fn settle(
        &self,
        notice: &Notice,
        report: Report,
        delivery: &Delivery,
    ) -> Result<(), Fault> {
        let verdict = delivery.verdict();
        if let NoticeContent::Signal { stream, .. } = &notice.content {
            let failure = match &verdict {
                Verdict::Taken => None,
                Verdict::Refused(why) | Verdict::Again(why) => Some(why.clone()),
            };
            self.deliveries.note(stream, self.clock.now(), failure);
        }
        let settled = match verdict {
            Verdict::Taken => self.discard(notice, report),
            Verdict::Refused(how) => self.discard(notice, report.failed(&how)),
            Verdict::Again(why) => {
                self.notices.postpone(notice, self.clock.monotonic_nanos());
                return self.report(
                    report.failed(&why).detail("again", true),
                    &Caller::default(),
                );
            }
        };
        match &settled {
            Ok(()) => self.notices.done(notice),
            Err(_) => self.notices.postpone(notice, self.clock.monotonic_nanos()),
        }
        settled
    }

    /// The request that tells `notice`.
    fn message_of(&self, notice: &Notice) -> Result<Prepared<Message>, Fault> {
        let gone = Prepared::Gone("the receiver is gone");
        match &notice.content {
            NoticeContent::BackchannelLogout {
                client_id,
                client_created_at,
                user,
                session,
            } => {
                let message = self.logout_message(client_id, *client_created_at, user, session)?;
                Ok(message.map_or(gone, Prepared::Ready))
            }
            NoticeContent::Signal { stream, signal } => self.signal_message(notice, stream, signal),
            NoticeContent::Mail { .. } | NoticeContent::ForgottenPassword { .. } => Ok(gone),
        }
    }

    pub(crate) fn discard(&self, notice: &Notice, report: Report) -> Result<(), Fault> {
        until_settled(|| {
            let change = self
                .change()
                .delete::<Notice>(Expected::Any, notice.id.as_str())
                .report_ref(&report, &Caller::default());
            Ok(change.commit()?.then_some(()))
        })
    }
}

impl Change<'_> {
    /// Tells `content` to its receiver once the change is made. If too much waits for that receiver already, that is an
    /// event instead: who is not there for so long must not fill the disk.
    pub(crate) fn tell(mut self, content: NoticeContent) -> Self {
        let provider = self.provider();
        let notice = Notice {
            id: NoticeId::generate(&*provider.clock, &*provider.entropy),
            content,
            created_at: provider.clock.now(),
        };
        let receiver = notice.receiver();
        let staged = self.notices().iter();
        let staged = staged
            .filter(|staged| staged.receiver() == receiver)
            .count();
        if provider.notices.has_room(&receiver, staged) {
            self = self.put(Expected::Absent, &notice);
            self.notices().push(notice);
            self
        } else {
            let report = notice
                .report()
                .failed("too many notices wait for this receiver");
            self.report(report, &Caller::default())
        }
    }
}

/// The pause after so many failures in a row.
fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_NOTICE_PAUSE
        .saturating_mul(1 << doublings)
        .min(MAX_NOTICE_PAUSE)
}
