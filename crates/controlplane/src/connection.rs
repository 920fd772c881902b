//! What a connection may cost before it has proved anything: how long it may say nothing, how long it may last, and how
//! many of them one source may have.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use testudo_model::SourceNetwork;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// What a client must send before HTTP takes over and has its own deadlines: the preface of HTTP/2 (RFC 9113
/// section 3.4). Up to there nobody else looks at the clock.
const OPENING_BYTES: usize = 24;

/// A stream that fails if its peer is too slow to open, or stays too long.
pub struct Guarded<S> {
    stream: S,
    opening: Option<Opening>,
    end: Option<Pin<Box<Sleep>>>,
}

struct Opening {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<S> Guarded<S> {
    /// The peer has `patience` from now to begin.
    pub fn new(stream: S, patience: Duration) -> Self {
        let deadline = Box::pin(tokio::time::sleep(patience));
        Self {
            stream,
            opening: Some(Opening {
                missing: OPENING_BYTES,
                deadline,
            }),
            end: None,
        }
    }

    /// The connection ends after `life`, whatever it is used for.
    #[must_use]
    pub fn ending_after(mut self, life: Duration) -> Self {
        self.end = Some(Box::pin(tokio::time::sleep(life)));
        self
    }

    /// Looks at the end first: a peer that reads nothing must not keep us from it.
    fn check_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let over = |end: &mut Pin<Box<Sleep>>| end.as_mut().poll(context).is_ready();
        if self.end.as_mut().is_some_and(over) {
            return Err(late("the connection's time is over"));
        }
        Ok(())
    }

    fn note_read(&mut self, bytes: usize) {
        if let Some(opening) = &mut self.opening {
            opening.missing = opening.missing.saturating_sub(bytes);
            if opening.missing == 0 {
                self.opening = None;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note_read(buffer.filled().len() - before);
        match &mut self.opening {
            Some(opening) if read.is_pending() => opening
                .deadline
                .as_mut()
                .poll(context)
                .map(|()| Err(late("the connection did not begin in time"))),
            _ => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_end(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn late(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// How many connections each source has.
pub struct Sources {
    most: usize,
    open: Mutex<HashMap<SourceNetwork, usize>>,
}

/// One connection of a source; it counts until this is dropped.
pub struct Place {
    sources: Arc<Sources>,
    network: SourceNetwork,
}

impl Sources {
    /// At most `most` for each.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            open: Mutex::default(),
        })
    }

    /// One more for the source of `address`, if it may have it.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let network = SourceNetwork::of(address);
        let mut open = self.lock();
        let count = open.entry(network).or_default();
        (*count < self.most).then(|| {
            *count += 1;
            Place {
                sources: Arc::clone(self),
                network,
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SourceNetwork, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.sources.lock();
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const NEVER: Duration = Duration::from_secs(3600);

    /// What a read until the end says, if it says anything within ten seconds.
    async fn outcome(mut stream: Guarded<tokio::io::DuplexStream>) -> io::Result<usize> {
        let mut read = Vec::new();
        let reading = stream.read_to_end(&mut read);
        tokio::time::timeout(Duration::from_secs(10), reading)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn who_says_nothing_or_half_a_greeting_is_hung_up_on() {
        for said in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n"] {
            let (mut client, server) = duplex(64);
            client.write_all(said.as_bytes()).await.unwrap();
            let ended = outcome(Guarded::new(server, SOON)).await.unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::TimedOut, "{said}");
        }
    }

    #[tokio::test]
    async fn who_has_begun_may_be_silent_but_not_longer_than_the_connection_lasts() {
        let (mut client, server) = duplex(64);
        client.write_all(&[b'x'; OPENING_BYTES]).await.unwrap();
        let waiting = tokio::spawn(outcome(Guarded::new(server, SOON)));
        tokio::time::sleep(SOON * 3).await;
        assert!(!waiting.is_finished());
        drop(client);
        assert_eq!(waiting.await.unwrap().unwrap(), OPENING_BYTES);

        let (mut client, server) = duplex(64);
        client.write_all(&[b'x'; OPENING_BYTES]).await.unwrap();
        let ended = outcome(Guarded::new(server, NEVER).ending_after(SOON)).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_does_not_read_cannot_stay_either() {
        let (_client, server) = duplex(1);
        let mut server = Guarded::new(server, NEVER).ending_after(SOON);
        let writing = tokio::time::timeout(Duration::from_secs(10), server.write_all(b"more"));
        let ended = writing.await.unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_source_has_so_many_connections_and_others_theirs() {
        let sources = Sources::new(2);
        let admit = |text: &str| sources.admit(text.parse().unwrap());
        let (one, _two) = (admit("2001:db8::1").unwrap(), admit("2001:db8::2").unwrap());
        assert!(admit("2001:db8::3").is_none());
        assert!(admit("2001:db8:0:1::1").is_some());
        drop(one);
        assert!(admit("2001:db8::3").is_some());
        drop(_two);
        assert!(sources.lock().is_empty(), "nothing stays of who has gone");
    }
}
