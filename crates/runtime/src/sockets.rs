//! The listening sockets of a process, in one place: what is bound here can be handed over to the next process
//! ([`crate::handover`]), and what the process before handed over is found here instead of being bound.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::net::getsockname;

/// The sockets by name. Cheap to clone; all clones are the same table.
///
/// The table holds each socket open until [`Sockets::close`]: a listener that its worker has dropped goes on
/// taking connections, for nobody, until then.
#[derive(Debug, Clone, Default)]
pub struct Sockets(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Handed over by the process before and not asked for yet.
    inherited: BTreeMap<String, Vec<OwnedFd>>,
    /// In use here.
    open: BTreeMap<String, Vec<OwnedFd>>,
    is_closed: bool,
}

impl Sockets {
    /// The sockets named `name` on `address`: those that the process before had there, or what `bind` binds.
    /// Port 0 fits every port. A name stands for one address of a role, e.g. `gateway` or `tcp.orders`.
    ///
    /// # Errors
    /// Those of `bind`; the descriptors are used up.
    pub fn open<S: AsFd + From<OwnedFd>>(
        &self,
        name: &str,
        address: SocketAddr,
        bind: impl FnOnce() -> io::Result<Vec<S>>,
    ) -> io::Result<Vec<S>> {
        let sockets = match self.take_inherited(name, address) {
            Some(inherited) => inherited.into_iter().map(S::from).collect(),
            None => bind()?,
        };
        let kept = sockets
            .iter()
            .map(|socket| socket.as_fd().try_clone_to_owned())
            .collect::<io::Result<Vec<_>>>()?;
        let mut table = self.lock();
        if !table.is_closed {
            table.open.insert(name.to_owned(), kept);
        }
        Ok(sockets)
    }

    /// The most sockets that the process before had under one name; 0 if there was none. Each needs somebody who
    /// accepts from it.
    pub fn most_inherited(&self) -> usize {
        let table = self.lock();
        table.inherited.values().map(Vec::len).max().unwrap_or(0)
    }

    /// Lets go of all sockets. Who still holds one goes on; when nobody does, the address is free.
    pub fn close(&self) {
        *self.lock() = Table {
            is_closed: true,
            ..Table::default()
        };
    }

    /// Takes in a socket of the process before.
    pub(crate) fn inherit(&self, name: String, socket: OwnedFd) {
        self.lock().inherited.entry(name).or_default().push(socket);
    }

    /// All open sockets with their names.
    ///
    /// # Errors
    /// The descriptors are used up.
    pub(crate) fn all(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let table = self.lock();
        let named = |(name, sockets): (&String, &Vec<OwnedFd>)| {
            let name = name.clone();
            let sockets = sockets.iter().map(OwnedFd::try_clone);
            sockets
                .map(|socket| Ok((name.clone(), socket?)))
                .collect::<Vec<_>>()
        };
        table.open.iter().flat_map(named).collect()
    }

    fn take_inherited(&self, name: &str, address: SocketAddr) -> Option<Vec<OwnedFd>> {
        let sockets = self.lock().inherited.remove(name)?;
        let fits = |socket: &OwnedFd| {
            getsockname(socket)
                .ok()
                .and_then(|bound| SocketAddr::try_from(bound).ok())
                .is_some_and(|bound| {
                    bound.ip() == address.ip()
                        && (address.port() == 0 || bound.port() == address.port())
                })
        };
        // Told to listen elsewhere: the address is bound anew, and the old one ends with the process before.
        sockets.iter().all(fits).then_some(sockets)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const ANY: &str = "127.0.0.1:0";

    fn bind() -> io::Result<Vec<TcpListener>> {
        Ok(vec![TcpListener::bind(ANY)?])
    }

    fn inherited(from: &Sockets) -> Sockets {
        let next = Sockets::default();
        for (name, socket) in from.all().unwrap() {
            next.inherit(name, socket);
        }
        next
    }

    #[test]
    fn what_was_handed_over_is_used_and_not_bound_again() {
        let before = Sockets::default();
        let bound = before.open("gateway", ANY.parse().unwrap(), bind).unwrap();
        let next = inherited(&before);
        assert_eq!(next.most_inherited(), 1);
        let address = bound[0].local_addr().unwrap();
        let never = || -> io::Result<Vec<TcpListener>> { panic!("bound again") };
        let same: Vec<TcpListener> = next.open("gateway", address, never).unwrap();
        assert_eq!(same[0].local_addr().unwrap(), address);
        assert_eq!(next.most_inherited(), 0);
        assert_eq!(next.all().unwrap().len(), 1, "and is there for the next");
    }

    #[test]
    fn another_address_is_bound_anew() {
        let before = Sockets::default();
        before.open("gateway", ANY.parse().unwrap(), bind).unwrap();
        let next = inherited(&before);
        let elsewhere = "127.0.0.2:0".parse().unwrap();
        let bind = || Ok(vec![TcpListener::bind("127.0.0.2:0")?]);
        let bound: Vec<TcpListener> = next.open("gateway", elsewhere, bind).unwrap();
        assert_eq!(bound[0].local_addr().unwrap().ip(), elsewhere.ip());
    }

    #[test]
    fn an_address_is_free_when_the_table_and_the_workers_have_let_go() {
        let sockets = Sockets::default();
        let bound = sockets.open("gateway", ANY.parse().unwrap(), bind).unwrap();
        let address = bound[0].local_addr().unwrap();
        drop(bound);
        assert!(std::net::TcpStream::connect(address).is_ok());
        sockets.close();
        assert!(std::net::TcpStream::connect(address).is_err());
        assert!(sockets.all().unwrap().is_empty());
    }
}
