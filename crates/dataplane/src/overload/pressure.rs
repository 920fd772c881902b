//! How a worker is: whether it turns requests away before it does anything for them, and which.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use testudo_model::Priority;
use tokio::time::{Instant, sleep_until};

/// How often is looked, and after how many looks also at memory.
const LOOK: Duration = Duration::from_millis(100);
const MEMORY_LOOKS: u32 = 10;
/// Looks in a row that must agree: one late timer is a hiccup, and one on time no recovery.
const WORSE_AFTER: u32 = 3;
const BETTER_AFTER: u32 = 10;
/// How late the worker's own timer may be, how many requests may be under way, and what share of the memory may be in use
/// before requests below `high`, `default` and so on are turned away. Ten thousand busy connections make a worker some
/// 200 ms late.
const STEPS: [Step; 3] = [
    Step {
        late: Duration::from_millis(500),
        underway: 20_000,
        memory_percent: 85,
    },
    Step {
        late: Duration::from_millis(1_000),
        underway: 30_000,
        memory_percent: 90,
    },
    Step {
        late: Duration::from_millis(2_000),
        underway: 40_000,
        memory_percent: 95,
    },
];

struct Step {
    late: Duration,
    underway: usize,
    memory_percent: u64,
}

/// What a worker looks at.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    late: Duration,
    underway: usize,
    memory_percent: u64,
}

/// Shared by what a worker does.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    /// Priorities below this are turned away: 0 for none.
    refused_below: AtomicUsize,
    underway: AtomicUsize,
}

/// A request that the worker has admitted; ends when dropped.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<Pressure>);

impl Pressure {
    /// Counts a request as under way, from its head to the end of its answer.
    pub(crate) fn begin(self: &Arc<Self>) -> Admitted {
        self.underway.fetch_add(1, Ordering::Relaxed);
        Admitted(Arc::clone(self))
    }

    /// Whether the worker does a request of this importance.
    pub(crate) fn admits(&self, priority: Priority) -> bool {
        priority as usize >= self.refused_below.load(Ordering::Relaxed)
    }

    /// Looks at the worker it runs on, for ever.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut gauge = Gauge::default();
        let mut memory_percent = 0;
        for look in 0_u32.. {
            let due = Instant::now() + LOOK;
            sleep_until(due).await;
            if look.is_multiple_of(MEMORY_LOOKS) {
                memory_percent = used_memory_percent().unwrap_or(0);
            }
            let reading = Reading {
                late: due.elapsed(),
                underway: self.underway.load(Ordering::Relaxed),
                memory_percent,
            };
            if gauge.take(reading) {
                let refused_below = gauge.level;
                tracing::warn!(refused_below, ?reading, "the load changes who is served");
                self.refused_below.store(refused_below, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.underway.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the readings say together: goes up and down by one step at a time.
#[derive(Debug, Default)]
struct Gauge {
    level: usize,
    worse: u32,
    better: u32,
}

impl Gauge {
    /// Whether the level has changed.
    fn take(&mut self, reading: Reading) -> bool {
        let wanted = STEPS.iter().filter(|step| step.is_reached(reading)).count();
        self.worse = if wanted > self.level {
            self.worse + 1
        } else {
            0
        };
        self.better = if wanted < self.level {
            self.better + 1
        } else {
            0
        };
        if self.worse >= WORSE_AFTER {
            self.level += 1;
        } else if self.better >= BETTER_AFTER {
            self.level = self.level.saturating_sub(1);
        } else {
            return false;
        }
        (self.worse, self.better) = (0, 0);
        true
    }
}

impl Step {
    fn is_reached(&self, reading: Reading) -> bool {
        reading.late >= self.late
            || reading.underway >= self.underway
            || reading.memory_percent >= self.memory_percent
    }
}

/// Memory of this process in hundredths of what it may have: of its control group if that has a limit, else of the
/// machine. `None` elsewhere than on Linux.
fn used_memory_percent() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let field = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let used = field(&read("/proc/self/status")?, "VmRSS:")? * 1024;
    let of_machine = field(&read("/proc/meminfo")?, "MemTotal:")? * 1024;
    (used * 100).checked_div(memory_of_group().unwrap_or(of_machine))
}

/// The least limit of this process's control group (version 2) and of those it is in, in bytes.
fn memory_of_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |group: &Path| -> Option<u64> {
        let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        fs::read_to_string(file).ok()?.trim().parse().ok()
    };
    Path::new(group).ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late(millis: u64) -> Reading {
        Reading {
            late: Duration::from_millis(millis),
            ..Reading::default()
        }
    }

    fn looks(gauge: &mut Gauge, reading: Reading, count: u32) -> usize {
        for _ in 0..count {
            gauge.take(reading);
        }
        gauge.level
    }

    #[test]
    fn overload_that_lasts_turns_away_class_by_class_and_never_the_critical() {
        let mut gauge = Gauge::default();
        assert_eq!(looks(&mut gauge, late(5_000), WORSE_AFTER - 1), 0);
        let levels: Vec<_> = (0..4)
            .map(|_| looks(&mut gauge, late(5_000), WORSE_AFTER))
            .collect();
        assert_eq!(levels, [1, 2, 3, 3]);
        let pressure = Pressure::default();
        pressure.refused_below.store(3, Ordering::Relaxed);
        let admitted = Priority::ALL.map(|priority| pressure.admits(priority));
        assert_eq!(admitted, [false, false, false, true]);
    }

    #[test]
    fn a_hiccup_turns_nobody_away_and_calm_lets_everybody_in_again() {
        let mut gauge = Gauge::default();
        for _ in 0..100 {
            looks(&mut gauge, late(5_000), WORSE_AFTER - 1);
            looks(&mut gauge, late(1), 1);
        }
        assert_eq!(gauge.level, 0);
        looks(&mut gauge, late(5_000), 100);
        assert_eq!(looks(&mut gauge, late(1), 3 * BETTER_AFTER - 1), 1);
        assert_eq!(looks(&mut gauge, late(1), 1), 0);
    }

    #[test]
    fn each_signal_alone_is_enough() {
        for reading in [
            late(500),
            Reading {
                underway: 20_000,
                ..Reading::default()
            },
            Reading {
                memory_percent: 85,
                ..Reading::default()
            },
        ] {
            assert_eq!(looks(&mut Gauge::default(), reading, WORSE_AFTER), 1);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_known() {
        assert!(used_memory_percent().is_some_and(|percent| percent < 90));
    }
}
