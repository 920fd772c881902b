//! Fake clock and seeded entropy, for tests only.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use testudo_model::{Clock, Entropy, Timestamp};

/// A clock that stands still until told to move.
#[derive(Debug)]
pub struct FakeClock {
    millis: AtomicI64,
    nanos: AtomicU64,
}

impl FakeClock {
    /// A clock at `unix_millis`.
    pub fn at(unix_millis: i64) -> Arc<Self> {
        Arc::new(Self {
            millis: AtomicI64::new(unix_millis),
            nanos: AtomicU64::new(0),
        })
    }

    /// A clock at 2026-11-22T10:00:00Z.
    pub fn today() -> Arc<Self> {
        Self::at(1_795_341_600_000)
    }

    /// Moves both the wall clock and the monotonic clock.
    pub fn advance(&self, by: Duration) {
        self.millis.fetch_add(
            i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
            Ordering::SeqCst,
        );
        self.nanos.fetch_add(
            u64::try_from(by.as_nanos()).unwrap_or(u64::MAX),
            Ordering::SeqCst,
        );
    }

    /// Moves the wall clock alone, backwards or forwards, as an administrator or NTP would.
    pub fn jump_to(&self, unix_millis: i64) {
        self.millis.store(unix_millis, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.millis.load(Ordering::SeqCst))
    }

    fn monotonic_nanos(&self) -> u64 {
        self.nanos.load(Ordering::SeqCst)
    }
}

/// Repeatable bytes (SplitMix64). Never outside tests.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<u64>);

impl SeededEntropy {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            for (byte, random) in chunk.iter_mut().zip(z.to_le_bytes()) {
                *byte = random;
            }
        }
    }
}
