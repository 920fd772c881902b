//! Shared signals: telling other systems, at once, what has happened to users and their sessions (OpenID Shared Signals
//! Framework 1.0, SSF) in the terms of CAEP 1.0 and RISC 1.0.
//!
//! A receiver is a service account that an administrator has made one ([`SignalReceiver`]); nobody is by default. It makes
//! [streams](SignalStream) for itself, and says which events it wants and how: pushed to it (RFC 8935), or for it to fetch
//! (RFC 8936). A [`Signal`] is a notice, written in the transaction of what it tells, and it waits for both in the same
//! queue: what was pushed and taken, or fetched and acknowledged, goes.
//!
//! Its security event token (SET, RFC 8417) is made each time it is sent, with the key of that moment. The `jti` is the id
//! of the notice, so that a receiver knows what it had already.

mod configuration;
mod credential;
mod event;
mod metadata;
mod poll;
mod receiver;
mod status;
mod stream;
mod subject;
mod transmission;
mod view;

pub(crate) use self::{
    credential::Credential,
    transmission::{Streams, push_refusal, signal_report},
    view::Deliveries,
};
pub use self::{
    event::{Cause, CredentialChange, CredentialType, Initiator, Signal, SignalEvent},
    poll::{Poll, PolledSets},
    receiver::{Receiver as SignalAudience, ReceiverRight, SignalError, SignalReceiver},
    stream::{PushAuthorization, SignalDelivery, SignalStream, StatusSetter, StreamStatus},
    view::{LastDelivery, StreamView},
};

use self::{poll::PollRequest, subject::SubjectRequest};

/// Reads what receivers send, as the endpoints do: for the fuzzer.
#[doc(hidden)]
pub fn signal_fuzz(body: &[u8]) {
    let _ = receiver::object(body).and_then(|said| configuration::Wishes::parse(&said, true));
    let _ = PollRequest::parse(body);
    let _ = SubjectRequest::parse(body, "https://id.example");
    let _ = push_refusal(body);
}
