//! A process has the memory it uses: in small pages, and what a burst leaves behind goes back to the system.
//!
//! mimalloc returns pages a second after they were freed, in passing: when somebody takes a new page, or when a thread
//! ends. After a burst nobody does, for workers last as long as the process and those that idle take nothing.

use std::{hint::black_box, thread, time::Duration};

use testudo_runtime::DrainWatch;

/// How often freed pages are looked for.
const LOOK: Duration = Duration::from_secs(2);

/// Has the system not make huge pages of the process's memory. mimalloc asks for them, and then a sidecar that uses 5 MB
/// holds 30 (docs/performance.md has what that gains and costs).
pub fn in_small_pages() {
    forbid_huge_pages(true);
}

/// Leaves it to the system again: what this process becomes is not ours to decide for, and would inherit it.
pub fn in_any_pages() {
    forbid_huge_pages(false);
}

/// Refused by kernels that know no huge pages, and then there is nothing to forbid.
fn forbid_huge_pages(forbidden: bool) {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(forbidden);
    #[cfg(not(target_os = "linux"))]
    let _ = forbidden;
}

/// Has freed pages returned until the process drains.
pub async fn give_back(mut drain: DrainWatch) {
    loop {
        tokio::select! {
            () = drain.drained() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        // A thread without an allocation has no pages, and mimalloc does not notice its end.
        let passing = || drop(black_box(Box::new(0_u8)));
        if let Err(error) = thread::Builder::new()
            .name("memory".to_owned())
            .spawn(passing)
        {
            tracing::debug!(%error, "freed memory is not looked for");
        }
    }
}
