//! From one process to the next of the same role without closing a port: the old one passes its listening sockets and
//! the lock of its data folder over a Unix socket in that folder, goes on until the new one is ready, and then drains.
//!
//! ```text
//! new                                  old
//!  │ connect to `<data>/upgrade.sock` ─►│ is it a process of the same user?
//!  │◄─ name + descriptor ───────────────│ once for each socket, each acknowledged; the lock;
//!  │                                    │ a stream over which both talk while both serve
//!  │◄─ end ─────────────────────────────│
//!  │  starts, gets ready                │ serves
//!  │─ ready ───────────────────────────►│ drains and ends
//! ```
//!
//! Until `ready` nothing has changed for the old process: a new one that fails leaves it alone. In between both accept
//! from the same sockets, so a connection waits for nobody.

use std::{
    fs::{self, OpenOptions},
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::net::UnixListener;

use crate::Sockets;

const SOCKET_FILE: &str = "upgrade.sock";
const LOCK_FILE: &str = "lock";
/// What is no listening socket, among the names of those; theirs have no space.
const LOCK_NAME: &str = "folder lock";
const COMPANION_NAME: &str = "companion stream";
/// Time for one step of the exchange.
const STEP: Duration = Duration::from_secs(10);
/// Time for the new process to get ready. Then it is taken for hung, and the old one listens to another.
const READY: Duration = Duration::from_secs(120);
const MAX_NAME_BYTES: usize = 255;
/// Sockets taken in at most: some hundred cores times a few addresses.
const MAX_SOCKETS: usize = 4096;
const ACKNOWLEDGED: u8 = b'a';
const IS_READY: u8 = b'r';

/// Why a process does not get its folder, or not the sockets of the process before.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Another process uses the folder.
    #[error(
        "the data folder {} is used by another process: give each proxy its own, or take over from that process \
         with --upgrade",
        path.display()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The process that has the folder does not answer, or is not ready itself.
    #[error(
        "the process that uses {} hands nothing over: is it ready? stop it, and start without --upgrade",
        path.display()
    )]
    Silent {
        /// Where it should answer.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The disk says no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        #[source]
        source: io::Error,
    },
}

/// A data folder that no other process uses, but one that takes over from this one.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    file: OwnedFd,
}

/// The process before, which serves until it is [relieved](Predecessor::relieve).
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    companion: Option<UnixStream>,
}

/// What a process that takes over is given.
#[derive(Debug)]
pub struct Inheritance {
    /// The process that gives it.
    pub predecessor: Predecessor,
    /// The lock of the data folder.
    pub lock: FolderLock,
    /// The listening sockets.
    pub sockets: Sockets,
}

/// Where the next process asks.
#[derive(Debug)]
pub struct Offer {
    listener: UnixListener,
    lock: OwnedFd,
}

/// A process that has taken over and is ready.
#[derive(Debug, Clone, Copy)]
pub struct Successor {
    /// Its process id, if the system tells.
    pub pid: Option<i32>,
}

impl FolderLock {
    /// Locks `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// [`HandoverError::Locked`], or the disk fails.
    pub fn take(folder: &Path) -> Result<Self, HandoverError> {
        let path = folder.join(LOCK_FILE);
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| HandoverError::Io {
                action,
                path,
                source,
            }
        };
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                folder: folder.to_owned(),
                file: file.into(),
            }),
            Err(fs::TryLockError::WouldBlock) => Err(HandoverError::Locked {
                path: folder.to_owned(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    /// Listens for the next process. An offer of a process before ends with it.
    ///
    /// # Errors
    /// The Unix socket cannot be made: its path is too long, most likely.
    pub fn offer(&self) -> io::Result<Offer> {
        let path = self.folder.join(SOCKET_FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Offer {
            listener: UnixListener::bind(&path)?,
            lock: self.file.try_clone()?,
        })
    }
}

impl Predecessor {
    /// Takes over from the process that uses `folder`. Blocks, for seconds at most.
    ///
    /// # Errors
    /// [`HandoverError::Silent`].
    pub fn reach(folder: &Path) -> Result<Inheritance, HandoverError> {
        let path = folder.join(SOCKET_FILE);
        let received = UnixStream::connect(&path).and_then(|stream| {
            stream.set_read_timeout(Some(STEP))?;
            stream.set_write_timeout(Some(STEP))?;
            let received = receive_all(&stream)?;
            Ok((stream, received))
        });
        let (stream, received) =
            received.map_err(|source| HandoverError::Silent { path, source })?;
        Ok(Inheritance {
            predecessor: Self {
                stream,
                companion: received.companion,
            },
            lock: FolderLock {
                folder: folder.to_owned(),
                file: received.lock,
            },
            sockets: received.sockets,
        })
    }

    /// The stream to the process before, for what both have to tell each other while both serve. Can be taken once.
    pub const fn companion(&mut self) -> Option<UnixStream> {
        self.companion.take()
    }

    /// Tells the process before that this one is ready: it drains and ends.
    ///
    /// # Errors
    /// It is gone already, and so in no need of it.
    pub fn relieve(mut self) -> io::Result<()> {
        self.stream.write_all(&[IS_READY])
    }
}

impl Offer {
    /// Hands `sockets` over to whoever of the same user asks for them, and `meet` a stream to that process; resolves
    /// when one of those is ready. Cancel-safe but for the process that asks at that moment, which fails.
    pub async fn taken(&self, sockets: &Sockets, meet: impl Fn(UnixStream)) -> Successor {
        loop {
            match self.hand_over(sockets, &meet).await {
                Ok(successor) => return successor,
                Err(error) => {
                    tracing::warn!(%error, "nobody took over; this process goes on");
                    // An error of the listener itself would come again at once.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn hand_over(
        &self,
        sockets: &Sockets,
        meet: &impl Fn(UnixStream),
    ) -> io::Result<Successor> {
        let (stream, _) = self.listener.accept().await?;
        let peer = stream.peer_cred()?;
        if peer.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("a process of user {} asked for the sockets", peer.uid()),
            ));
        }
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        let (mine, companion) = UnixStream::pair()?;
        let mut all = vec![
            (LOCK_NAME.to_owned(), self.lock.try_clone()?),
            (COMPANION_NAME.to_owned(), companion.into()),
        ];
        all.extend(sockets.all()?);
        meet(mine);
        let handed = tokio::task::spawn_blocking(move || {
            send_all(&stream, &all)?;
            tracing::info!(
                descriptors = all.len(),
                "handed over; waiting for the next process"
            );
            stream.set_read_timeout(Some(READY))?;
            expect(&stream, IS_READY)
        });
        handed.await.map_err(io::Error::other)??;
        Ok(Successor { pid: peer.pid() })
    }
}

fn send_all(stream: &UnixStream, all: &[(String, OwnedFd)]) -> io::Result<()> {
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    for (name, descriptor) in all {
        send(stream, name, descriptor)?;
        // One at a time: a stream does not keep the bytes of two messages apart.
        expect(stream, ACKNOWLEDGED)?;
    }
    (&*stream).write_all(&[0])
}

fn send(stream: &UnixStream, name: &str, descriptor: &OwnedFd) -> io::Result<()> {
    let length = u8::try_from(name.len()).map_err(io::Error::other)?;
    let message = [&[length], name.as_bytes()].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    if !rights.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let sent = sendmsg(
        stream,
        &[IoSlice::new(&message)],
        &mut rights,
        SendFlags::empty(),
    )?;
    if sent == message.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

struct Received {
    lock: OwnedFd,
    companion: Option<UnixStream>,
    sockets: Sockets,
}

fn receive_all(stream: &UnixStream) -> io::Result<Received> {
    let sockets = Sockets::default();
    let (mut lock, mut companion) = (None, None);
    for _ in 0..MAX_SOCKETS {
        let Some((name, descriptor)) = receive(stream)? else {
            return Ok(Received {
                lock: lock.ok_or_else(|| malformed("the lock is missing"))?,
                companion,
                sockets,
            });
        };
        match &*name {
            LOCK_NAME => lock = Some(descriptor),
            COMPANION_NAME => companion = Some(UnixStream::from(descriptor)),
            _ => sockets.inherit(name, descriptor),
        }
        (&*stream).write_all(&[ACKNOWLEDGED])?;
    }
    Err(malformed("too many sockets"))
}

/// One name with its descriptor; `None` at the end.
fn receive(stream: &UnixStream) -> io::Result<Option<(String, OwnedFd)>> {
    let mut message = [0; 1 + MAX_NAME_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut message)],
        &mut rights,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptor = rights.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let (length, rest) = message
        .get(..received.bytes)
        .and_then(<[u8]>::split_first)
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    if *length == 0 {
        return Ok(None);
    }
    let name = rest.get(..usize::from(*length));
    let name = name.and_then(|name| std::str::from_utf8(name).ok());
    match (name, descriptor) {
        (Some(name), Some(descriptor)) => Ok(Some((name.to_owned(), descriptor))),
        _ => Err(malformed("a name without a descriptor")),
    }
}

fn expect(stream: &UnixStream, expected: u8) -> io::Result<()> {
    let mut byte = [0];
    (&*stream).read_exact(&mut byte)?;
    if byte == [expected] {
        Ok(())
    } else {
        Err(malformed("an unexpected answer"))
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use tempfile::TempDir;

    use super::*;

    fn listening(sockets: &Sockets) -> std::net::SocketAddr {
        let any = "127.0.0.1:0";
        let bind = || Ok(vec![TcpListener::bind(any)?]);
        let bound: Vec<TcpListener> = sockets.open("gateway", any.parse().unwrap(), bind).unwrap();
        bound[0].local_addr().unwrap()
    }

    async fn reach(folder: &Path) -> Result<Inheritance, HandoverError> {
        let folder = folder.to_owned();
        tokio::task::spawn_blocking(move || Predecessor::reach(&folder))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_next_process_gets_the_sockets_and_the_lock_and_no_connection_is_lost() {
        let folder = TempDir::new().unwrap();
        let (lock, sockets) = (FolderLock::take(folder.path()).unwrap(), Sockets::default());
        let address = listening(&sockets);
        let offer = lock.offer().unwrap();
        let old = async {
            let meet = |mut stream: UnixStream| stream.write_all(b"!").unwrap();
            let successor = offer.taken(&sockets, meet).await;
            sockets.close();
            successor
        };
        let new = async {
            let inheritance = reach(folder.path()).await.unwrap();
            let (mut old, inherited) = (inheritance.predecessor, inheritance.sockets);
            let mut said = [0];
            let mut stream = old.companion().unwrap();
            stream.read_exact(&mut said).unwrap();
            assert_eq!(&said, b"!");
            let bind = || -> io::Result<Vec<TcpListener>> { panic!("bound again") };
            let mine: Vec<TcpListener> = inherited.open("gateway", address, bind).unwrap();
            // It waits in the kernel's queue, which both have.
            let waiting = TcpStream::connect(address).unwrap();
            old.relieve().unwrap();
            (mine, waiting, inheritance.lock)
        };
        let (successor, (mine, waiting, new_lock)) = tokio::join!(old, new);
        assert_eq!(successor.pid, Some(std::process::id().cast_signed()));
        let (_, peer) = mine[0].accept().unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());

        drop((lock, offer));
        let third = FolderLock::take(folder.path());
        assert!(matches!(third, Err(HandoverError::Locked { .. })));
        drop(new_lock);
        FolderLock::take(folder.path()).unwrap();
    }

    #[tokio::test]
    async fn one_that_dies_before_it_is_ready_changes_nothing() {
        let folder = TempDir::new().unwrap();
        let (lock, sockets) = (FolderLock::take(folder.path()).unwrap(), Sockets::default());
        listening(&sockets);
        let offer = lock.offer().unwrap();
        let attempts = async {
            drop(reach(folder.path()).await.unwrap());
            let taken = reach(folder.path()).await.unwrap();
            taken.predecessor.relieve().unwrap();
        };
        tokio::join!(offer.taken(&sockets, drop), attempts);
        assert_eq!(sockets.all().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_folder_whose_process_offers_nothing_cannot_be_taken_over() {
        let folder = TempDir::new().unwrap();
        let _lock = FolderLock::take(folder.path()).unwrap();
        let refused = reach(folder.path()).await;
        assert!(matches!(refused, Err(HandoverError::Silent { .. })));
        let refused = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("--upgrade"), "{refused}");
    }
}
