//! A stream that is lent. Whoever borrowed it drops it, wherever that is, and its owner has it again.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Lends `stream`.
pub(crate) fn lend<S>(stream: S) -> (Lent<S>, Owner<S>) {
    let owner = Owner(Arc::default());
    let lent = Lent {
        stream: Some(stream),
        owner: Owner(Arc::clone(&owner.0)),
    };
    (lent, owner)
}

/// Where the stream comes back to.
pub(crate) struct Owner<S>(Arc<Mutex<Option<S>>>);

impl<S> Owner<S> {
    /// The stream, if it is back.
    pub(crate) fn take(&self) -> Option<S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A stream that somebody else owns.
pub(crate) struct Lent<S> {
    /// There until this is dropped.
    stream: Option<S>,
    owner: Owner<S>,
}

impl<S: Unpin> Lent<S> {
    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut S>> {
        let stream = self.get_mut().stream.as_mut();
        stream
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        *self.owner.0.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(context, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn who_drops_it_gives_it_back() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut lent, owner) = lend(ours);
        theirs.write_all(b"ab").await.unwrap();
        assert_eq!(lent.read_u8().await.unwrap(), b'a');
        assert!(owner.take().is_none());
        drop(lent);
        assert_eq!(owner.take().unwrap().read_u8().await.unwrap(), b'b');
    }
}
