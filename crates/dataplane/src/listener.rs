//! Listening sockets, worker threads and their end.
//!
//! Each worker has a current-thread runtime and a socket of its own on the same address (`SO_REUSEPORT`): the
//! kernel spreads connections, [`crate::spread`] mends where it does so badly, and nothing on the request path is
//! shared between cores without need.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    thread::JoinHandle,
    time::Duration,
};

use futures_util::FutureExt;
use socket2::{Domain, Protocol, Socket, Type};
use testudo_runtime::{DrainWatch, Sockets};
use tokio::{
    net::TcpStream,
    task::{JoinError, JoinSet},
};

use crate::{
    slots::{ConnectionSlots, Slot},
    spread::{Accepted, Place, Seat, Team, seats},
};

/// Connections the kernel completes before we accept them.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a role did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A worker thread or its runtime could not be made.
    #[error("cannot start worker thread `{name}`")]
    Thread {
        /// The thread.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// QUIC cannot be spoken with the certificate's TLS.
    #[cfg(feature = "http3")]
    #[error("cannot use the TLS configuration for QUIC")]
    Quic,
    /// The trust material cannot be used.
    #[error("cannot use the TLS configuration")]
    Tls(#[source] testudo_trust::TlsError),
}

/// Sockets on one address, one for each worker.
#[derive(Debug)]
pub struct Listeners {
    address: SocketAddr,
    sockets: Vec<TcpListener>,
}

impl Listeners {
    /// Binds `address` for `workers`; port 0 means a free one.
    ///
    /// # Errors
    /// [`StartError::Bind`].
    pub fn bind(address: SocketAddr, workers: NonZeroUsize) -> Result<Self, StartError> {
        bind_all(address, workers)
            .and_then(|sockets| Self::of(sockets, workers))
            .map_err(|source| StartError::Bind { address, source })
    }

    /// The same with sockets that the process before handed over under `name`, and kept in `table` for the next.
    /// There are at least `workers` then; each of the sockets needs a worker.
    ///
    /// # Errors
    /// [`StartError::Bind`].
    pub fn open(
        table: &Sockets,
        name: &str,
        address: SocketAddr,
        workers: NonZeroUsize,
    ) -> Result<Self, StartError> {
        table
            .open(name, address, || bind_all(address, workers))
            .and_then(|sockets| Self::of(sockets, workers))
            .map_err(|source| StartError::Bind { address, source })
    }

    /// `sockets`, of which several workers share the last if they are too few.
    fn of(mut sockets: Vec<TcpListener>, workers: NonZeroUsize) -> io::Result<Self> {
        let last = sockets.last().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let address = last.local_addr()?;
        let clones = (sockets.len()..workers.get()).map(|_| last.try_clone());
        let clones = clones.collect::<io::Result<Vec<_>>>()?;
        sockets.extend(clones);
        Ok(Self { address, sockets })
    }

    /// Takes over a socket that somebody else bound; the workers share it.
    ///
    /// # Errors
    /// [`StartError::Bind`].
    pub fn adopt(socket: TcpListener, workers: NonZeroUsize) -> Result<Self, StartError> {
        socket
            .set_nonblocking(true)
            .and_then(|()| Self::of(vec![socket], workers))
            .map_err(|source| StartError::Bind {
                address: SocketAddr::from(([0, 0, 0, 0], 0)),
                source,
            })
    }

    /// Where they listen.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// One seat for each worker.
    pub(crate) fn into_seats(self) -> Vec<Seat> {
        seats(self.sockets)
    }
}

/// One socket on `address` for each of `workers`.
fn bind_all(address: SocketAddr, workers: NonZeroUsize) -> io::Result<Vec<TcpListener>> {
    if workers == NonZeroUsize::MIN {
        return Ok(vec![bind_one(address, Sharing::Alone)?]);
    }
    // A shared port would let a second proxy be started beside the first and take half of its connections: see
    // first that nobody is there.
    drop(bind_one(address, Sharing::Alone)?);
    let first = bind_one(address, Sharing::WithWorkers)?;
    let bound = first.local_addr()?;
    let others = (1..workers.get()).map(|_| bind_one(bound, Sharing::WithWorkers));
    std::iter::once(Ok(first)).chain(others).collect()
}

/// For each worker its seats at several addresses, with what each address is for.
pub(crate) fn seats_by_worker<K: Clone>(
    listeners: impl IntoIterator<Item = (K, Listeners)>,
) -> impl Iterator<Item = Vec<(K, Seat)>> {
    let mut by_worker: Vec<Vec<(K, Seat)>> = Vec::new();
    for (purpose, listeners) in listeners {
        let seats = listeners.into_seats();
        by_worker.resize_with(by_worker.len().max(seats.len()), Vec::new);
        for (worker, seat) in by_worker.iter_mut().zip(seats) {
            worker.push((purpose.clone(), seat));
        }
    }
    by_worker.into_iter()
}

/// Who else may listen on the address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    WithWorkers,
}

fn bind_one(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::WithWorkers)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The worker threads of a running role.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts one thread with a current-thread runtime for each of `workers`.
    pub(crate) fn start<F>(name: &str, workers: Vec<F>) -> Result<Self, StartError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut threads = Vec::with_capacity(workers.len());
        for (number, worker) in workers.into_iter().enumerate() {
            let name = format!("{name}-{number}");
            let failed = |source| StartError::Thread {
                name: name.clone(),
                source,
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(failed)?;
            let thread = std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || runtime.block_on(worker))
                .map_err(failed)?;
            threads.push(thread);
        }
        Ok(Self { threads })
    }

    /// Whether a worker has ended although nobody asked it to.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits until all workers have ended, which they do after the drain. Blocks.
    ///
    /// # Errors
    /// The number of workers that panicked.
    pub fn join(self) -> Result<(), usize> {
        let panicked = self
            .threads
            .into_iter()
            .map(JoinHandle::join)
            .filter(Result::is_err)
            .count();
        if panicked == 0 { Ok(()) } else { Err(panicked) }
    }
}

/// Accepts connections until the drain starts, and those that the kernel has completed by then; serves each in a task
/// of its own, then waits for those that are open, at most until `deadline`.
pub(crate) async fn accept<F>(
    seat: Seat,
    slots: ConnectionSlots,
    mut drain: DrainWatch,
    deadline: Duration,
    serve: impl Fn(TcpStream, SocketAddr, DrainWatch) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Seat { socket, mut team } = seat;
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listening socket cannot be used"),
    };
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let slot = slots.take().await;
            (slot, listener.accept().await)
        };
        let accepted = tokio::select! {
            () = drain.drained() => break,
            Some(ended) = connections.join_next() => {
                report(&ended);
                continue;
            }
            handed = team.handed() => Ok(Some(handed)),
            (slot, accepted) = next => place(&slots, &team, slot, accepted),
        };
        match accepted.and_then(|accepted| accepted.map(Accepted::open).transpose()) {
            Ok(Some(opened)) => serve_one(&mut connections, &serve, opened, &drain),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Closed with connections in its queue, a socket would reset them; and a worker that drained first has handed
    // over nothing since.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        let Some(slot) = slots.try_take() else {
            break;
        };
        if let Some(slot) = slots.for_source(slot, peer.ip())
            && let Ok(opened) = keep(&team, slot, stream, peer)
        {
            serve_one(&mut connections, &serve, opened, &drain);
        }
    }
    drop(listener);
    for accepted in team.close() {
        if let Ok(opened) = accepted.open() {
            serve_one(&mut connections, &serve, opened, &drain);
        }
    }
    finish(connections, deadline).await;
}

/// Serves a connection in a task of its own.
fn serve_one<F>(
    connections: &mut JoinSet<()>,
    serve: &impl Fn(TcpStream, SocketAddr, DrainWatch) -> F,
    (stream, peer, place): (TcpStream, SocketAddr, Place),
    drain: &DrainWatch,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let serving = serve(stream, peer, drain.clone());
    // An `async` block would have room for it twice.
    connections.spawn(serving.map(|()| drop(place)));
}

/// A new connection, if this worker shall serve it.
fn place(
    slots: &ConnectionSlots,
    team: &Team,
    slot: Slot,
    accepted: io::Result<(TcpStream, SocketAddr)>,
) -> io::Result<Option<Accepted>> {
    let (stream, peer) = accepted?;
    let Some(slot) = slots.for_source(slot, peer.ip()) else {
        return Ok(None);
    };
    stream.set_nodelay(true)?;
    Ok(team.assign(stream.into_std()?, peer, slot))
}

/// A new connection that this worker serves, whoever has fewer.
fn keep(
    team: &Team,
    slot: Slot,
    stream: TcpStream,
    peer: SocketAddr,
) -> io::Result<(TcpStream, SocketAddr, Place)> {
    stream.set_nodelay(true)?;
    team.keep(stream.into_std()?, peer, slot)
        .ok_or(io::ErrorKind::NotConnected)?
        .open()
}

/// Waits for `connections`, at most until `deadline`.
pub(crate) async fn finish(mut connections: JoinSet<()>, deadline: Duration) {
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report(&ended);
        }
    };
    if tokio::time::timeout(deadline, all).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "connections were cut at the drain deadline"
        );
    }
}

/// A panic ends one connection. That it happened at all is a bug worth waking somebody for.
pub(crate) fn report(ended: &Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "serving a connection panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_proxies_do_not_share_a_port_by_accident() {
        for workers in [NonZeroUsize::MIN, NonZeroUsize::MIN.saturating_add(1)] {
            let first = Listeners::bind("127.0.0.1:0".parse().unwrap(), workers).unwrap();
            assert_eq!(first.sockets.len(), workers.get());
            assert!(matches!(
                Listeners::bind(first.address(), workers),
                Err(StartError::Bind { .. })
            ));
        }
    }
}
