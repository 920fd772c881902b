//! A client that does not read, or hardly: writes that make too little progress end the connection.
//!
//! A body's deadline is looked at when the body is asked for more, and a full socket buffer means that nobody
//! asks.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use testudo_model::snapshot::TransferRules;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::rate::Watched;

/// A stream whose writes fail when its reader is too slow.
pub(crate) struct StallGuard<S> {
    inner: S,
    reader: Watched,
}

impl<S> StallGuard<S> {
    pub(crate) const fn new(inner: S, rules: TransferRules) -> Self {
        Self {
            inner,
            reader: Watched::new(rules),
        }
    }

    /// What became of a write that moved so many bytes.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        moved: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &written {
            Poll::Ready(Ok(written)) => self.reader.moved(moved(written)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                ready!(self.reader.poll_exceeded(context));
                let error = "the peer does not read";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)));
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch(context, written, |length| *length)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.watch(context, written, |length| *length)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.watch(context, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_shutdown(context);
        self.watch(context, closed, |()| 0)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const RULES: TransferRules = TransferRules {
        min_bytes_per_second: 100,
        grace_millis: 200,
    };

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let error = StallGuard::new(ours, RULES)
            .write_all(&[0; 64])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_slow_peer_that_does_read_is_served() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let reader = tokio::spawn(async move {
            let mut bytes = [0; 16];
            for _ in 0..4 {
                tokio::time::sleep(RULES.grace() / 2).await;
                theirs.read_exact(&mut bytes).await.unwrap();
            }
        });
        StallGuard::new(ours, RULES)
            .write_all(&[0; 64])
            .await
            .unwrap();
        reader.await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_reads_a_byte_now_and_then_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let reader = tokio::spawn(async move {
            let pause = RULES.grace() / 4;
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        });
        let mut guard = StallGuard::new(ours, RULES);
        let error = guard.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(guard);
        reader.await.unwrap();
    }
}
