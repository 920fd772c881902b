//! When each device asked last, in memory: asking writes nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::limits::{
    DEVICE_POLL_INTERVAL, DEVICE_POLL_TOLERANCE, MAX_DEVICE_POLL_INTERVAL, MAX_POLLING_DEVICES,
};

/// The devices that asked lately.
#[derive(Default)]
pub(crate) struct Polls(Mutex<HashMap<String, Device>>);

struct Device {
    asked_at_nanos: u64,
    interval: Duration,
}

/// Whether a device asks in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poll {
    InTime,
    /// It shall wait longer from now on (RFC 8628 section 3.5).
    TooSoon,
}

impl Polls {
    /// Takes note that the device with this code, which is right, has asked.
    pub(crate) fn ask(&self, user_code: &str, now_nanos: u64) -> Poll {
        let mut devices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = devices.get_mut(user_code) {
            let since = Duration::from_nanos(now_nanos.saturating_sub(device.asked_at_nanos));
            device.asked_at_nanos = now_nanos;
            if since + DEVICE_POLL_TOLERANCE >= device.interval {
                return Poll::InTime;
            }
            let longer = device.interval.saturating_add(DEVICE_POLL_INTERVAL);
            device.interval = longer.min(MAX_DEVICE_POLL_INTERVAL);
            return Poll::TooSoon;
        }
        if devices.len() >= MAX_POLLING_DEVICES {
            let is_quiet = |device: &Device| {
                let since = now_nanos.saturating_sub(device.asked_at_nanos);
                Duration::from_nanos(since) > MAX_DEVICE_POLL_INTERVAL
            };
            devices.retain(|_, device| !is_quiet(device));
            if devices.len() >= MAX_POLLING_DEVICES {
                return Poll::TooSoon;
            }
        }
        let device = Device {
            asked_at_nanos: now_nanos,
            interval: DEVICE_POLL_INTERVAL,
        };
        devices.insert(user_code.to_owned(), device);
        Poll::InTime
    }

    /// The device has its answer.
    pub(crate) fn forget(&self, user_code: &str) {
        let mut devices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        devices.remove(user_code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn who_asks_too_soon_must_wait_longer_each_time_and_nobody_else_must() {
        let polls = Polls::default();
        assert_eq!(polls.ask("a", 0), Poll::InTime);
        assert_eq!(polls.ask("a", 5 * SECOND), Poll::InTime);
        assert_eq!(polls.ask("a", 7 * SECOND), Poll::TooSoon);
        assert_eq!(
            polls.ask("a", 12 * SECOND),
            Poll::TooSoon,
            "10 s from now on"
        );
        assert_eq!(polls.ask("a", 27 * SECOND), Poll::InTime);
        assert_eq!(polls.ask("b", 27 * SECOND), Poll::InTime);
        for _ in 0..100 {
            polls.ask("a", 27 * SECOND);
        }
        let longest = MAX_DEVICE_POLL_INTERVAL.as_secs();
        assert_eq!(polls.ask("a", (27 + longest) * SECOND), Poll::InTime);
    }

    #[test]
    fn memory_is_bounded_and_devices_that_are_gone_make_room() {
        let polls = Polls::default();
        for device in 0..MAX_POLLING_DEVICES {
            assert_eq!(polls.ask(&device.to_string(), 0), Poll::InTime);
        }
        assert_eq!(polls.ask("one more", SECOND), Poll::TooSoon);
        let later = (MAX_DEVICE_POLL_INTERVAL.as_secs() + 1) * SECOND;
        assert_eq!(polls.ask("one more", later), Poll::InTime);
        assert_eq!(polls.0.lock().unwrap().len(), 1);
    }
}
