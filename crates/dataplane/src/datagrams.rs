//! UDP sockets, one for each worker on the same address.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::listener::StartError;

/// Pause between two tries to bind an address that another process has.
const PAUSE: Duration = Duration::from_millis(250);

/// Where HTTP/3 is served.
///
/// A QUIC connection lives in the process that began it, and the kernel sends each datagram to one of all sockets on the
/// address. So these sockets are never handed over, nor shared with the process before: they are bound once it is gone.
#[derive(Debug)]
pub struct Datagrams {
    address: SocketAddr,
    workers: NonZeroUsize,
    /// `None`: not bound yet.
    sockets: Mutex<Option<Vec<UdpSocket>>>,
}

impl Datagrams {
    /// Binds `address` for `workers`; port 0 means a free one.
    ///
    /// # Errors
    /// [`StartError::Bind`].
    pub fn bind(address: SocketAddr, workers: NonZeroUsize) -> Result<Self, StartError> {
        let failed = |source| StartError::Bind { address, source };
        let sockets = bind_all(address, workers).map_err(failed)?;
        let bound = sockets
            .first()
            .ok_or(io::ErrorKind::AddrNotAvailable.into());
        let bound = bound.and_then(UdpSocket::local_addr).map_err(failed)?;
        Ok(Self {
            address: bound,
            workers,
            sockets: Mutex::new(Some(sockets)),
        })
    }

    /// The same as soon as the process before lets go of `address`. The workers wait for it.
    pub const fn bind_later(address: SocketAddr, workers: NonZeroUsize) -> Self {
        Self {
            address,
            workers,
            sockets: Mutex::new(None),
        }
    }

    /// Where they are, or will be.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A worker's socket, as soon as there is one. `None`: there are more workers than sockets.
    pub(crate) async fn socket(&self) -> Option<UdpSocket> {
        loop {
            if let Some(sockets) = &mut *self.lock() {
                return sockets.pop();
            }
            match bind_all(self.address, self.workers) {
                Ok(bound) => *self.lock() = Some(bound),
                Err(error) => {
                    tracing::debug!(%error, address = %self.address, "not yet free for HTTP/3");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<UdpSocket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bind_all(address: SocketAddr, workers: NonZeroUsize) -> io::Result<Vec<UdpSocket>> {
    // See first that nobody is there, as for TCP.
    drop(bind_one(address, false)?);
    let first = bind_one(address, true)?;
    let bound = first.local_addr()?;
    let others = (1..workers.get()).map(|_| bind_one(bound, true));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn bind_one(address: SocketAddr, is_shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_reuse_port(is_shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

    #[tokio::test]
    async fn who_comes_later_waits_until_the_address_is_free() {
        let before = Datagrams::bind("127.0.0.1:0".parse().unwrap(), TWO).unwrap();
        let address = before.address();
        assert!(matches!(
            Datagrams::bind(address, TWO),
            Err(StartError::Bind { .. })
        ));
        let after = Datagrams::bind_later(address, TWO);
        let waiting = tokio::time::timeout(2 * PAUSE, after.socket());
        assert!(
            waiting.await.is_err(),
            "nothing is taken from whoever is there"
        );
        drop(before);
        for _ in 0..TWO.get() {
            let socket = tokio::time::timeout(8 * PAUSE, after.socket());
            let socket = socket.await.unwrap().unwrap();
            assert_eq!(socket.local_addr().unwrap(), address);
        }
        assert!(after.socket().await.is_none());
    }
}
