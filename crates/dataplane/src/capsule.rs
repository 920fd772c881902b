//! A TCP connection inside an HTTP/2 stream: its bytes as capsules (RFC 9297), its end as one of its own.
//!
//! The end of a stream does not tell whether the connection behind it was closed or broke off: what carries it says
//! "end" in both cases. A reader must not take what is missing for the end, so the end is said inside, as in
//! draft-ietf-httpbis-connect-tcp: the capsule `FINAL_DATA` is the FIN of TCP, and a stream that ends without it is a
//! reset.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::varint;

/// Some bytes of the connection.
const DATA: u64 = 0x2028_d7ee;
/// The last ones.
const FINAL_DATA: u64 = 0x2028_d7ef;
/// Longest head of a capsule: two integers of eight bytes (RFC 9000 section 16).
const MAX_HEAD_BYTES: usize = 16;
/// Bytes put into one capsule.
const MAX_PAYLOAD_BYTES: usize = 16 * 1024;

/// A connection over the stream `S`.
pub(crate) struct Capsules<S> {
    stream: S,
    reading: Reading,
    /// Written into a capsule and not yet taken by the stream.
    unwritten: BytesMut,
    has_said_end: bool,
}

/// Where in the capsules the reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// In a head of which so many bytes are known.
    Head([u8; MAX_HEAD_BYTES], usize),
    /// Before so many bytes of the connection.
    Payload { left: u64, is_final: bool },
    /// Behind the last one.
    End,
}

const NO_HEAD: Reading = Reading::Head([0; MAX_HEAD_BYTES], 0);

impl<S> Capsules<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            reading: NO_HEAD,
            unwritten: BytesMut::new(),
            has_said_end: false,
        }
    }

    fn put(&mut self, kind: u64, payload: &[u8]) {
        self.unwritten.reserve(MAX_HEAD_BYTES + payload.len());
        varint::write(&mut self.unwritten, kind);
        let length = u64::try_from(payload.len()).unwrap_or(varint::MAX);
        varint::write(&mut self.unwritten, length);
        self.unwritten.put_slice(payload);
    }
}

impl Reading {
    /// Behind one more byte of a head.
    fn with(self, byte: u8) -> io::Result<Self> {
        let Self::Head(mut head, known) = self else {
            return Ok(self);
        };
        if let Some(slot) = head.get_mut(known) {
            *slot = byte;
        }
        let known = known + 1;
        let mut bytes = head.get(..known).ok_or_else(malformed)?;
        let Some(kind) = varint::read(&mut bytes) else {
            return Ok(Self::Head(head, known));
        };
        let Some(left) = varint::read(&mut bytes) else {
            return Ok(Self::Head(head, known));
        };
        match kind {
            DATA => Ok(Self::after(left, false)),
            FINAL_DATA => Ok(Self::after(left, true)),
            _ => Err(malformed()),
        }
    }

    /// Before `left` bytes of a capsule.
    const fn after(left: u64, is_final: bool) -> Self {
        match (left, is_final) {
            (0, true) => Self::End,
            (0, false) => NO_HEAD,
            _ => Self::Payload { left, is_final },
        }
    }
}

impl<S: AsyncRead + Unpin> Capsules<S> {
    /// Reads what stands before the next bytes of the connection.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while matches!(self.reading, Reading::Head(..)) {
            // One at a time: what follows the head is read into the caller's buffer. The stream has it in memory.
            let mut byte = [0];
            let mut buffer = ReadBuf::new(&mut byte);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            match buffer.filled().first() {
                Some(byte) => self.reading = self.reading.with(*byte)?,
                None => return Poll::Ready(Err(broken_off())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Capsules<S> {
    /// The stream has to end here. Waiting for it, and not just going away, lets HTTP/2 close it in order.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
            Ok(()) if !buffer.filled().is_empty() => Poll::Ready(Err(malformed())),
            // All that mattered has been said, however the stream ends.
            Ok(()) | Err(_) => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Capsules<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_head(context))?;
        let Reading::Payload { left, is_final } = this.reading else {
            return this.poll_end(context);
        };
        let room = usize::try_from(left).unwrap_or(usize::MAX);
        let room = room.min(buffer.remaining());
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
        ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
        let count = part.filled().len();
        if count == 0 {
            return Poll::Ready(Err(broken_off()));
        }
        buffer.advance(count);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        this.reading = Reading::after(left.saturating_sub(count), is_final);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Capsules<S> {
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unwritten.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.unwritten))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unwritten.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Capsules<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        let payload = bytes.get(..MAX_PAYLOAD_BYTES).unwrap_or(bytes);
        this.put(DATA, payload);
        // Taken, whether or not the stream has room: what is left is written before anything else is.
        if let Poll::Ready(Err(error)) = this.poll_drain(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(payload.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.has_said_end {
            this.put(FINAL_DATA, &[]);
            this.has_said_end = true;
        }
        ready!(this.poll_drain(context))?;
        ready!(Pin::new(&mut this.stream).poll_flush(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a capsule of a connection")
}

fn broken_off() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the connection broke off at the other side",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// What a reader makes of `bytes`, which come `step` at a time.
    fn read(bytes: &[u8], step: usize) -> Result<Vec<u8>, io::ErrorKind> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut far, near) = duplex(step);
            let sending = async {
                let _ = far.write_all(bytes).await;
                drop(far);
            };
            let mut connection = Capsules::new(near);
            let mut heard = Vec::new();
            let reading = async {
                let read = connection.read_to_end(&mut heard).await;
                drop(connection);
                read
            };
            let ((), read) = tokio::join!(sending, reading);
            read.map(|_| heard).map_err(|error| error.kind())
        })
    }

    /// The bytes of a connection that carried `parts`.
    fn written(parts: &[Vec<u8>], ends: bool) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (near, mut far) = duplex(7);
            let writing = async {
                let mut connection = Capsules::new(near);
                for part in parts {
                    connection.write_all(part).await.unwrap();
                }
                if ends {
                    connection.shutdown().await.unwrap();
                } else {
                    connection.flush().await.unwrap();
                }
            };
            let mut bytes = Vec::new();
            let (read, ()) = tokio::join!(far.read_to_end(&mut bytes), writing);
            read.unwrap();
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read_and_an_end_is_an_end_only_if_it_was_said(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40_000), 0..4),
            ends in any::<bool>(),
            step in 1_usize..5_000,
        ) {
            let whole = parts.concat();
            let heard = read(&written(&parts, ends), step);
            if ends {
                prop_assert_eq!(heard, Ok(whole));
            } else {
                prop_assert_eq!(heard, Err(io::ErrorKind::UnexpectedEof));
            }
        }

        #[test]
        fn what_is_cut_off_anywhere_is_no_end(
            part in prop::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = written(&[part], true);
            let cut = cut.index(bytes.len());
            prop_assert_eq!(read(&bytes[..cut], 16), Err(io::ErrorKind::UnexpectedEof));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&bytes, 3);
        }
    }

    #[test]
    fn other_capsules_are_refused() {
        assert_eq!(
            read(&[0x00, 0x01, 0x41], 16),
            Err(io::ErrorKind::InvalidData)
        );
    }

    #[test]
    fn a_final_capsule_may_carry_bytes() {
        let mut bytes = BytesMut::new();
        varint::write(&mut bytes, FINAL_DATA);
        varint::write(&mut bytes, 2);
        bytes.put_slice(b"ok");
        assert_eq!(read(&bytes, 16), Ok(b"ok".to_vec()));
    }
}
