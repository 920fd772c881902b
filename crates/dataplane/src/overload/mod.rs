//! More work than can be done: who waits, who is turned away, and how much an upstream is asked for at once.
//!
//! * [`gradient`] finds out how many requests an upstream takes at once without getting slower.
//! * [`turnstile`] lets as many through, the most important first, and turns away who would wait too long.
//! * [`turn`] is a request's way through it.
//! * [`pressure`] watches the proxy itself and turns the unimportant away before anything is done for them.
//! * [`budget`] bounds what is tried a second time.
//!
//! Each worker has its own of all of them. Health checks, metrics and the link to the control plane have threads of their
//! own and are never turned away.

mod budget;
mod gradient;
mod pressure;
mod turn;
mod turnstile;

pub(crate) use budget::RetryBudget;
pub(crate) use pressure::{Admitted, Pressure};
pub(crate) use turn::Turn;
pub(crate) use turnstile::Turnstiles;
use turnstile::{Ticket, TurnedAway};

/// When a client that was turned away may try again.
pub(crate) const RETRY_AFTER_SECONDS: u64 = 1;
