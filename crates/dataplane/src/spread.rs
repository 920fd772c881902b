//! Spreading the connections of one address over its workers.
//!
//! The kernel spreads by a hash of both addresses. That is even enough for thousands of connections, but not for
//! the few that other proxies keep open for hours: all of them may fall to one worker. So a worker that holds
//! more than its share hands the next connection to the one that holds fewest.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

use crate::slots::Slot;

/// Connections on their way to another worker. Beyond it they stay where they are.
const INBOX: usize = 64;
/// A worker keeps a connection as long as it holds at most this many more than the least busy one, or an
/// eighth more: handing over wakes another thread.
const TOLERATED: usize = 1;
const TOLERATED_SHARE: usize = 8;

/// A worker's place at a listening address.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Its socket.
    pub(crate) socket: TcpListener,
    /// Its way to the others at the address.
    pub(crate) team: Team,
}

/// The workers of an address, as seen by one of them.
#[derive(Debug)]
pub(crate) struct Team {
    own: usize,
    desks: Arc<[Desk]>,
    inbox: mpsc::Receiver<Accepted>,
}

/// What the workers know of each other.
#[derive(Debug)]
struct Desk {
    open: Arc<AtomicUsize>,
    inbox: mpsc::Sender<Accepted>,
}

/// A connection that was accepted, counted where it will be served until it is dropped.
#[derive(Debug)]
pub(crate) struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
}

/// A connection's place among those of its proxy and of its worker.
#[derive(Debug)]
pub(crate) struct Place {
    open: Arc<AtomicUsize>,
    _slot: Slot,
}

impl Desk {
    fn seat(&self, stream: TcpStream, peer: SocketAddr, slot: Slot) -> Accepted {
        self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            open: Arc::clone(&self.open),
            _slot: slot,
        };
        Accepted {
            stream,
            peer,
            place,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One seat for each socket.
pub(crate) fn seats(sockets: Vec<TcpListener>) -> Vec<Seat> {
    let (desks, inboxes): (Vec<_>, Vec<_>) = sockets
        .iter()
        .map(|_| {
            let (sender, inbox) = mpsc::channel(INBOX);
            let open = Arc::default();
            let desk = Desk {
                open,
                inbox: sender,
            };
            (desk, inbox)
        })
        .unzip();
    let desks: Arc<[Desk]> = desks.into();
    let seats = sockets.into_iter().zip(inboxes).enumerate();
    seats
        .map(|(own, (socket, inbox))| Seat {
            socket,
            team: Team {
                own,
                desks: Arc::clone(&desks),
                inbox,
            },
        })
        .collect()
}

impl Accepted {
    /// The connection in this worker's runtime.
    pub(crate) fn open(self) -> io::Result<(tokio::net::TcpStream, SocketAddr, Place)> {
        let stream = tokio::net::TcpStream::from_std(self.stream)?;
        Ok((stream, self.peer, self.place))
    }
}

impl Team {
    /// The next connection that another worker hands over.
    pub(crate) async fn handed(&mut self) -> Accepted {
        match self.inbox.recv().await {
            Some(accepted) => accepted,
            // Cannot be: this team holds a sender as well.
            None => std::future::pending().await,
        }
    }

    /// Gives a new connection to the worker it belongs to; answers it if that is this one.
    pub(crate) fn assign(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        slot: Slot,
    ) -> Option<Accepted> {
        let own = self.desks.get(self.own)?;
        let least = self.least_busy().unwrap_or(own);
        match least.inbox.try_reserve() {
            Ok(room) if !std::ptr::eq(least, own) => {
                room.send(least.seat(stream, peer, slot));
                None
            }
            _ => Some(own.seat(stream, peer, slot)),
        }
    }

    /// A new connection for this worker, whatever the others have.
    pub(crate) fn keep(&self, stream: TcpStream, peer: SocketAddr, slot: Slot) -> Option<Accepted> {
        Some(self.desks.get(self.own)?.seat(stream, peer, slot))
    }

    /// Takes no more from the others; answers what they have handed over already.
    pub(crate) fn close(mut self) -> impl Iterator<Item = Accepted> {
        self.inbox.close();
        std::iter::from_fn(move || self.inbox.try_recv().ok())
    }

    /// The worker that should have the next connection; `None` when it is this one's.
    fn least_busy(&self) -> Option<&Desk> {
        let open = |desk: &Desk| desk.open.load(Ordering::Relaxed);
        let least = self.desks.iter().min_by_key(|desk| open(desk))?;
        let tolerated = open(least) + TOLERATED.max(open(least) / TOLERATED_SHARE);
        (open(self.desks.get(self.own)?) >= tolerated).then_some(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::ConnectionSlots;

    fn listeners(count: usize) -> Vec<TcpListener> {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        std::iter::repeat_with(listen).take(count).collect()
    }

    /// Brings connections to one seat only, and says how many each worker then has.
    async fn spread(connections: usize, workers: usize) -> Vec<usize> {
        let slots = ConnectionSlots::of(connections);
        let mut seats = seats(listeners(workers));
        let address = seats[0].socket.local_addr().unwrap();
        let mut held: Vec<Vec<Accepted>> = Vec::new();
        held.resize_with(workers, Vec::new);
        for _ in 0..connections {
            let _client = TcpStream::connect(address).unwrap();
            let (stream, peer) = seats[0].socket.accept().unwrap();
            let slot = slots.try_take().unwrap();
            held[0].extend(seats[0].team.assign(stream, peer, slot));
            for (seat, held) in seats.iter_mut().zip(&mut held) {
                held.extend(seat.team.inbox.try_recv());
            }
        }
        let counts = held.iter().map(Vec::len).collect();
        drop(held);
        let free: Vec<_> = std::iter::from_fn(|| slots.try_take()).collect();
        assert_eq!(free.len(), connections);
        let left = |desk: &Desk| desk.open.load(Ordering::Relaxed);
        assert!(seats[0].team.desks.iter().all(|desk| left(desk) == 0));
        counts
    }

    #[tokio::test]
    async fn few_connections_are_spread_evenly_wherever_the_kernel_put_them() {
        assert_eq!(spread(6, 2).await, [3, 3]);
        assert_eq!(spread(8, 4).await, [2, 2, 2, 2]);
        assert_eq!(spread(1, 4).await, [1, 0, 0, 0]);
        assert_eq!(spread(3, 1).await, [3]);
    }

    #[tokio::test]
    async fn of_many_an_eighth_more_is_kept() {
        let counts = spread(300, 2).await;
        assert!(counts[0] > counts[1] && counts[0] <= counts[1] + counts[1] / 8 + 1);
    }

    #[tokio::test]
    async fn a_worker_that_is_gone_or_full_gets_nothing() {
        let mut seats = seats(listeners(2));
        let slots = ConnectionSlots::of(100);
        let address = seats[0].socket.local_addr().unwrap();
        let assign = |seat: &Seat| {
            let _client = TcpStream::connect(address).unwrap();
            let (stream, peer) = seat.socket.accept().unwrap();
            seat.team.assign(stream, peer, slots.try_take().unwrap())
        };
        drop(seats.pop());
        let kept: Vec<_> = (0..10).filter_map(|_| assign(&seats[0])).collect();
        assert_eq!(kept.len(), 10);
    }

    #[tokio::test]
    async fn what_was_handed_over_to_a_worker_that_drains_is_not_lost() {
        let mut seats = seats(listeners(2));
        let slots = ConnectionSlots::of(100);
        let address = seats[0].socket.local_addr().unwrap();
        let assign = |seat: &Seat| {
            let _client = TcpStream::connect(address).unwrap();
            let (stream, peer) = seats[0].socket.accept().unwrap();
            let slot = slots.try_take().unwrap();
            seat.team.assign(stream, peer, slot)
        };
        let kept: Vec<_> = (0..10).filter_map(|_| assign(&seats[0])).collect();
        let draining = seats.pop().unwrap();
        let handed = draining.team.close().count();
        assert_eq!((kept.len(), handed), (5, 5));
    }
}
