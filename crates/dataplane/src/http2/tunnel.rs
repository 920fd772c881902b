//! The bytes of a stream that an extended CONNECT (RFC 8441 section 5) has opened.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both directions.
#[derive(Debug)]
pub(crate) struct Tunnel {
    sending: SendStream<Bytes>,
    receiving: RecvStream,
    /// Received and not read yet.
    unread: Bytes,
}

impl Tunnel {
    pub(crate) const fn new(sending: SendStream<Bytes>, receiving: RecvStream) -> Self {
        Self {
            sending,
            receiving,
            unread: Bytes::new(),
        }
    }

    /// Why nothing can be sent any more.
    fn poll_broken(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Ready(match ready!(self.sending.poll_reset(context)) {
            Ok(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) => {
                io::ErrorKind::BrokenPipe.into()
            }
            Ok(reason) => io::Error::other(h2::Error::from(reason)),
            Err(error) => io::Error::other(error),
        })
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            self.unread = match ready!(self.receiving.poll_data(context)) {
                Some(Ok(data)) => data,
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => {
                    return Poll::Ready(match error.reason() {
                        Some(Reason::NO_ERROR | Reason::CANCEL) => Ok(()),
                        _ => Err(io::Error::other(error)),
                    });
                }
            };
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(self.unread.get(..count).unwrap_or_default());
        self.unread.advance(count);
        // Only what was read makes room: who reads slowly is sent to slowly.
        self.receiving
            .flow_control()
            .release_capacity(count)
            .map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.sending.reserve_capacity(bytes.len());
        while self.sending.capacity() == 0 {
            let Some(Ok(_)) = ready!(self.sending.poll_capacity(context)) else {
                return self.poll_broken(context).map(Err);
            };
        }
        let count = self.sending.capacity().min(bytes.len());
        let part = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        match self.sending.send_data(part, false) {
            Ok(()) => Poll::Ready(Ok(count)),
            Err(_) => self.poll_broken(context).map(Err),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.sending.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => self.poll_broken(context).map(Err),
        }
    }
}
