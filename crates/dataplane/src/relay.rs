//! Bytes both ways, of a WebSocket or of a connection that nobody reads, from its opening until one of the two sides,
//! or what allowed it, ends.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use bytes::BytesMut;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use testudo_model::{limits, snapshot::TransferRules};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    inflight::Delivery,
    metrics::OpenStream,
    pool::Lease,
    record,
    stall::StallGuard,
    stream::{Standing, StreamEnd},
};

/// Bytes read at once. Nothing more is read before they are written: who reads slowly is sent to slowly.
const BUFFER_BYTES: usize = 8 * 1024;
/// Messages come when there are some: only who does not read at all is cut off.
const PAUSES: TransferRules = TransferRules {
    min_bytes_per_second: 0,
    grace_millis: 30_000,
};
/// Time for one side to finish after the other has. RFC 6455 section 7.1.1: both close at once.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The next hop's end of something opened, whatever carries it.
pub(crate) type FarSide = Box<dyn Duplex>;

/// The far side of something opened, with what is kept while it lasts.
pub(crate) struct Opened {
    /// The bytes of the next hop.
    pub(crate) far: FarSide,
    /// What carries them.
    pub(crate) lease: Lease,
    /// On whose behalf the service works.
    pub(crate) delivery: Option<Delivery>,
}

impl Opened {
    /// The bytes, and what is only kept.
    pub(crate) fn into_parts(self) -> (FarSide, impl Send + 'static) {
        (self.far, (self.lease, self.delivery))
    }
}

/// How long nothing may move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// While both sides are open.
    pub(crate) idle: Duration,
    /// When one of them has ended.
    pub(crate) half_closed: Duration,
    /// Whether nothing is missing when the other side then breaks off or says nothing more.
    pub(crate) one_end_is_enough: bool,
}

impl Patience {
    const WEBSOCKET: Self = Self {
        idle: limits::STREAM_IDLE_TIMEOUT,
        half_closed: HALF_CLOSED_TIMEOUT,
        one_end_is_enough: true,
    };

    /// Of a connection that may be idle so long. Whoever has sent all it had may wait for the answer as long as
    /// anybody.
    pub(crate) const fn of_connection(idle: Duration) -> Self {
        Self {
            idle,
            half_closed: idle,
            one_end_is_enough: false,
        }
    }
}

/// Carries a WebSocket between `client`, once it is told that it is open, and the next hop.
pub(crate) async fn websocket(client: OnUpgrade, opened: Opened, standing: Standing) {
    let client = async { Some(StallGuard::new(TokioIo::new(client.await.ok()?), PAUSES)) };
    let (far, kept) = opened.into_parts();
    let service = StallGuard::new(far, PAUSES);
    run(client, service, kept, standing, Patience::WEBSOCKET).await;
}

/// Carries bytes between `client`, as soon as it is there, and `service`, and keeps `kept` meanwhile. How it ended is
/// recorded, also when this is dropped before.
pub(crate) async fn run<C, S>(
    client: impl Future<Output = Option<C>>,
    service: S,
    kept: impl Send + 'static,
    standing: Standing,
    patience: Patience,
) where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _kept = kept;
    let mut report = Report::begin(standing, patience);
    report.end = match client.await {
        Some(client) => carry(client, service, &report).await,
        None => StreamEnd::Broken,
    };
}

async fn carry<C, S>(client: C, service: S, report: &Report) -> StreamEnd
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let traffic = &report.traffic;
    let counted = &report.counted;
    let (from_client, to_client) = tokio::io::split(client);
    let (from_service, to_service) = tokio::io::split(service);
    let both = async {
        tokio::try_join!(
            traffic.pump(from_client, to_service, |count| {
                traffic.to_service_bytes.fetch_add(count, Ordering::Relaxed);
                counted.to_service_bytes.inc_by(count);
            }),
            traffic.pump(from_service, to_client, |count| {
                traffic.to_client_bytes.fetch_add(count, Ordering::Relaxed);
                counted.to_client_bytes.inc_by(count);
            }),
        )
    };
    tokio::select! {
        biased;
        end = report.standing.until_objection() => end,
        ended = both => match ended {
            Ok(_) => StreamEnd::Closed,
            Err(_) => traffic.end_or(StreamEnd::Broken),
        },
        () = traffic.until_idle() => traffic.end_or(StreamEnd::Idle),
        () = sleep(limits::STREAM_LIFETIME) => StreamEnd::Expired,
    }
}

/// What has moved, and how long nothing may.
struct Traffic {
    began: Instant,
    patience: Patience,
    to_service_bytes: AtomicU64,
    to_client_bytes: AtomicU64,
    /// When something last did, in milliseconds from the beginning.
    moved_at_millis: AtomicU64,
    is_half_closed: AtomicBool,
}

impl Traffic {
    fn begin(patience: Patience) -> Self {
        Self {
            began: Instant::now(),
            patience,
            to_service_bytes: AtomicU64::new(0),
            to_client_bytes: AtomicU64::new(0),
            moved_at_millis: AtomicU64::new(0),
            is_half_closed: AtomicBool::new(false),
        }
    }

    /// Copies until the end of `from`, which is passed on; `count` is told what was.
    async fn pump(
        &self,
        from: impl AsyncRead,
        to: impl AsyncWrite,
        count: impl Fn(u64),
    ) -> io::Result<()> {
        let (mut from, mut to) = (pin!(from), pin!(to));
        let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
        while from.read_buf(&mut buffer).await? > 0 {
            to.write_all(&buffer).await?;
            to.flush().await?;
            count(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
            self.note_movement();
            buffer.clear();
        }
        to.shutdown().await?;
        self.note_movement();
        self.is_half_closed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn note_movement(&self) {
        self.moved_at_millis
            .store(self.lasted_millis(), Ordering::Relaxed);
    }

    fn lasted_millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Resolves when nothing has moved for too long.
    async fn until_idle(&self) {
        loop {
            let limit = if self.is_half_closed.load(Ordering::Relaxed) {
                self.patience.half_closed
            } else {
                self.patience.idle
            };
            let moved_at = Duration::from_millis(self.moved_at_millis.load(Ordering::Relaxed));
            let (now, until) = (Instant::now(), self.began + moved_at + limit);
            if until <= now {
                return;
            }
            // Not longer, because the limit shrinks when one side ends.
            sleep_until(until.min(now + self.patience.half_closed)).await;
        }
    }

    /// `end`, unless one side had said goodbye before and that is enough.
    fn end_or(&self, end: StreamEnd) -> StreamEnd {
        if self.patience.one_end_is_enough && self.is_half_closed.load(Ordering::Relaxed) {
            StreamEnd::Closed
        } else {
            end
        }
    }
}

/// Tells the ledger how a stream ended.
struct Report {
    standing: Standing,
    traffic: Traffic,
    counted: OpenStream,
    end: StreamEnd,
}

impl Report {
    fn begin(standing: Standing, patience: Patience) -> Self {
        let metrics = &standing.worker.proxy.metrics;
        Self {
            counted: metrics.stream(standing.role, standing.service.as_str()),
            standing,
            traffic: Traffic::begin(patience),
            // Unless it ends otherwise, it is dropped with the worker.
            end: StreamEnd::Drained,
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // What forbids a stream also closes connections, and either may come first.
        let end = match self.end {
            StreamEnd::Broken | StreamEnd::Drained => self.standing.objection().unwrap_or(self.end),
            end => end,
        };
        let moved = record::Moved {
            to_service_bytes: self.traffic.to_service_bytes.load(Ordering::Relaxed),
            to_client_bytes: self.traffic.to_client_bytes.load(Ordering::Relaxed),
        };
        let lasted_millis = self.traffic.lasted_millis();
        record::stream_end(&self.standing, end, lasted_millis, Some(&moved));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn bytes_pass_and_an_end_is_passed_on() {
        let traffic = Traffic::begin(Patience::WEBSOCKET);
        let (mut client, near) = duplex(64);
        let (far, mut service) = duplex(64);
        let (from, _) = tokio::io::split(near);
        let (_, to) = tokio::io::split(far);
        let talk = async {
            client.write_all(b"hello").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = String::new();
            service.read_to_string(&mut heard).await.unwrap();
            heard
        };
        let moved = AtomicU64::new(0);
        let count = |bytes| {
            moved.fetch_add(bytes, Ordering::Relaxed);
        };
        let (pumped, heard) = tokio::join!(traffic.pump(from, to, count), talk);
        pumped.unwrap();
        assert_eq!(heard, "hello");
        assert_eq!(moved.into_inner(), 5);
        assert_eq!(traffic.end_or(StreamEnd::Broken), StreamEnd::Closed);
    }

    #[tokio::test]
    async fn a_stream_is_idle_when_nothing_moves_and_sooner_when_half_of_it_has_ended() {
        const IDLE: Duration = Duration::from_millis(600);
        const HALF_CLOSED: Duration = Duration::from_millis(100);
        const SHORT: Patience = Patience {
            idle: IDLE,
            half_closed: HALF_CLOSED,
            one_end_is_enough: true,
        };
        let traffic = Traffic::begin(SHORT);
        let moving = async {
            sleep(IDLE / 2).await;
            traffic.note_movement();
        };
        tokio::join!(traffic.until_idle(), moving);
        assert!(traffic.began.elapsed() >= IDLE / 2 * 3);
        assert_eq!(traffic.end_or(StreamEnd::Idle), StreamEnd::Idle);

        let traffic = Traffic::begin(SHORT);
        traffic.is_half_closed.store(true, Ordering::Relaxed);
        traffic.until_idle().await;
        assert!((HALF_CLOSED..IDLE).contains(&traffic.began.elapsed()));
        assert_eq!(traffic.end_or(StreamEnd::Idle), StreamEnd::Closed);
    }

    #[tokio::test]
    async fn nothing_is_read_ahead_of_a_reader_that_does_not_read() {
        let traffic = Traffic::begin(Patience::WEBSOCKET);
        let (mut client, near) = duplex(64);
        let (far, _service) = duplex(64);
        let (from, _) = tokio::io::split(near);
        let (_, to) = tokio::io::split(far);
        let flood = async {
            let bytes = vec![0; 4 * BUFFER_BYTES];
            let limit = Duration::from_millis(200);
            let written = tokio::time::timeout(limit, client.write_all(&bytes));
            assert!(written.await.is_err(), "the flood was taken in");
        };
        tokio::select! {
            _ = traffic.pump(from, to, |_| {}) => panic!("it cannot end"),
            () = flood => {}
        }
    }
}
