//! HTTP/3 (RFC 9114) for servers, on top of QUIC.
//!
//! There is no parser behind a gate here as there is for HTTP/1.1 and HTTP/2: this is the parser, and as strict as the
//! gates are. What it takes is a request like any other, [`crate::arriving::Arriving`] and all, for the service that the
//! other versions have. QPACK runs without its dynamic table, nothing is pushed, and CONNECT is not served.
//!
//! [`huffman`], [`qpack`] and [`head`] do no IO.

mod answer;
mod code;
mod connection;
mod control;
mod frames;
mod head;
mod huffman;
mod qpack;
mod received;
mod session;
mod static_table;

pub(crate) use code::{EXCESSIVE_LOAD, NO_ERROR};
pub(crate) use connection::{SEND_WINDOW_BYTES, serve};
#[cfg(feature = "fuzzing")]
pub(crate) use head::read as read_head;
pub(crate) use received::Received;
