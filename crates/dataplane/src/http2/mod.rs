//! The gate in front of the HTTP/2 parser, and what h2 carries for us as a client.
//!
//! h2 keeps what a connection can hold in bounds: streams, header lists, resets, unread frames. It does not count what
//! costs work and comes to nothing, nor how long a client leaves answers unread. So each frame of a connection passes
//! [`Gate`] first, which ends the connections of those who send such frames in floods or do not read.
//!
//! [`frames`] and [`budget`] do no IO.

mod budget;
mod frames;
mod gate;
mod received;
mod sending;
mod tunnel;
mod unread;

pub(crate) use budget::Peer;
#[cfg(feature = "http3")]
pub(crate) use budget::{Budget, RESET};
#[cfg(feature = "fuzzing")]
pub(crate) use frames::Frames;
pub(crate) use frames::PREFACE;
pub(crate) use gate::Gate;
pub(crate) use received::Received;
pub(crate) use sending::Sending;
pub(crate) use tunnel::Tunnel;
