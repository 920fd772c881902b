//! The gate in front of the HTTP/1.1 parser.
//!
//! hyper reads what most clients mean; a border must read what every other parser would read as well. So each byte
//! of a connection passes [`Requests`] first, which knows where each request begins and ends by the strict rules of
//! RFC 9112, and [`Gate`], which shows hyper nothing else. A head is held back until it is complete and good.
//!
//! [`head`], [`body`] and [`requests`] do no IO.

mod body;
mod gate;
mod head;
mod requests;
mod syntax;

pub(crate) use gate::{Gate, Verdict};
#[cfg(feature = "fuzzing")]
pub(crate) use requests::{Next, Requests};
#[cfg(feature = "http3")]
pub(crate) use syntax::is_target;
