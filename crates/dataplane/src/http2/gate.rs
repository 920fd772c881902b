//! The gate as a stream: h2 reads and writes through it.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use testudo_model::snapshot::TransferRules;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    budget::{Budget, Peer},
    frames::{Frames, kind},
    unread::Unread,
};
use crate::serve::Activity;

/// Frames of a header section that does not end. h2 allows a few more than the longest one needs.
const ENDLESS_FRAMES: usize = 64;

/// A stream whose frames are counted on their way.
pub(crate) struct Gate<S> {
    stream: S,
    /// What was read before the gate was there.
    read: BytesMut,
    incoming: Frames,
    outgoing: Frames,
    peer: Peer,
    budget: Budget,
    unread: Unread,
    round: Option<Pin<Box<Sleep>>>,
    activity: Arc<Activity>,
    end: End,
}

/// Whether the connection is ended, which h2 does itself: in place of what comes it reads a header section that does not
/// end, and answers that with GOAWAY and ENHANCE_YOUR_CALM.
#[derive(Debug)]
enum End {
    No,
    /// When the frame under way is complete.
    Due,
    /// Bytes of it that h2 has not read.
    Reading(BytesMut),
}

impl<S> Gate<S> {
    /// Counts the frames of `stream`, beginning with bytes of it that were `read` already.
    pub(crate) fn new(
        stream: S,
        read: BytesMut,
        peer: Peer,
        transfer: TransferRules,
        activity: Arc<Activity>,
    ) -> Self {
        let mut gate = Self {
            stream,
            read,
            incoming: Frames::of_client(),
            outgoing: Frames::of_server(),
            peer,
            budget: Budget::new(peer),
            unread: Unread::new(transfer),
            round: None,
            activity,
            end: End::No,
        };
        // No more than the preface.
        let mut preface = &*gate.read;
        gate.incoming.skip(&mut preface);
        gate
    }

    /// Counts `bytes` that came; how many of them h2 may have.
    fn receive(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while matches!(self.end, End::No) {
            let Some(frame) = self.incoming.next(&mut rest) else {
                return bytes.len();
            };
            if self.peer == Peer::Client {
                self.unread.received(frame);
            }
            if !self.budget.charge(frame, Instant::now) {
                tracing::debug!(kind = frame.kind, "too many frames that come to nothing");
                self.end = End::Due;
            }
        }
        self.incoming.skip(&mut rest);
        bytes.len() - rest.len()
    }

    /// Counts the first `written` of the bytes in `slices`.
    fn sent(&mut self, slices: &[&[u8]], mut written: usize) {
        for slice in slices {
            let mut bytes = slice.get(..written).unwrap_or(slice);
            written -= bytes.len();
            while let Some(frame) = self.outgoing.next(&mut bytes) {
                self.budget.sent(frame);
                self.unread.sent(frame);
            }
        }
    }

    /// Resolves when a client leaves answers unread for too long.
    fn poll_unread(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.unread.is_empty() {
                self.round = None;
                return Poll::Pending;
            }
            let length = self.unread.round();
            let round = self
                .round
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(length)));
            if round.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            round.as_mut().reset(Instant::now() + length);
            if self.unread.end_round(self.activity.under_way()) {
                return Poll::Ready(());
            }
        }
    }
}

/// HEADERS and CONTINUATION, none of which ends the header section.
fn endless_header_section() -> BytesMut {
    const STREAM: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];
    let mut bytes = BytesMut::new();
    for frame in 0..ENDLESS_FRAMES {
        let kind = match frame {
            0 => kind::HEADERS,
            _ => kind::CONTINUATION,
        };
        bytes.extend_from_slice(&[0, 0, 0, kind, 0]);
        bytes.extend_from_slice(&STREAM);
    }
    bytes
}

/// Moves as much as fits.
fn hand_over(bytes: &mut BytesMut, buffer: &mut ReadBuf<'_>) {
    let length = bytes.len().min(buffer.remaining());
    buffer.put_slice(bytes.get(..length).unwrap_or_default());
    bytes.advance(length);
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        loop {
            if !gate.read.is_empty() || buffer.remaining() == 0 {
                hand_over(&mut gate.read, buffer);
                return Poll::Ready(Ok(()));
            }
            match &mut gate.end {
                // h2 ends the connection.
                End::Reading(bytes) if bytes.is_empty() => return Poll::Pending,
                End::Reading(bytes) => {
                    hand_over(bytes, buffer);
                    return Poll::Ready(Ok(()));
                }
                End::Due if gate.incoming.is_between() => {
                    gate.end = End::Reading(endless_header_section());
                    continue;
                }
                End::No | End::Due => {}
            }
            let before = buffer.filled().len();
            if Pin::new(&mut gate.stream)
                .poll_read(context, buffer)?
                .is_pending()
            {
                if gate.poll_unread(context).is_pending() {
                    return Poll::Pending;
                }
                tracing::debug!("a client leaves its answers unread");
                gate.end = End::Due;
                if gate.incoming.is_between() {
                    continue;
                }
                // Nobody knows when the frame under way will be complete.
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let accepted = gate.receive(fresh);
            buffer.set_filled(before + accepted);
            if accepted > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        let written = Pin::new(&mut gate.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(length)) = written {
            gate.sent(&[bytes], length);
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        let written = Pin::new(&mut gate.stream).poll_write_vectored(context, slices);
        if let Poll::Ready(Ok(length)) = written {
            let slices: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
            gate.sent(&slices, length);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::http2::frames::PREFACE;

    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingpong";
    const REQUEST: &[u8] = b"\0\0\0\x01\x05\0\0\0\x01";

    fn gated(peer: Peer) -> (DuplexStream, Gate<DuplexStream>) {
        let (client, server) = tokio::io::duplex(1 << 20);
        let transfer = TransferRules {
            min_bytes_per_second: 100,
            grace_millis: 10,
        };
        let read = BytesMut::from(PREFACE);
        let gate = Gate::new(server, read, peer, transfer, Activity::new());
        (client, gate)
    }

    async fn available(gate: &mut Gate<DuplexStream>) -> Vec<u8> {
        let mut read = Vec::new();
        let pause = Duration::from_millis(100);
        while let Ok(Ok(1..)) = tokio::time::timeout(pause, gate.read_buf(&mut read)).await {}
        read
    }

    #[tokio::test]
    async fn a_flood_is_cut_off_between_two_frames_however_it_comes() {
        for step in [7, 17, 1_000, 1 << 20] {
            let (mut client, mut gate) = gated(Peer::Client);
            let flood = PING.repeat(3_000);
            let sender = async {
                for part in flood.chunks(step) {
                    client.write_all(part).await.unwrap();
                }
            };
            let (read, ()) = tokio::join!(available(&mut gate), sender);
            let read = [read, available(&mut gate).await].concat();
            let ended = endless_header_section();
            let passed = read.strip_suffix(&ended[..]).expect("the end");
            let pings = passed.strip_prefix(PREFACE).unwrap();
            assert_eq!(pings.len() % PING.len(), 0, "{step}");
            assert!(
                (2_000..2_200).contains(&(pings.len() / PING.len())),
                "{step}"
            );
        }
    }

    #[tokio::test]
    async fn answers_that_are_not_taken_end_the_connection_of_a_client_only() {
        for (peer, ends) in [(Peer::Client, true), (Peer::Proxy, false)] {
            let (mut client, mut gate) = gated(peer);
            client.write_all(REQUEST).await.unwrap();
            let read = available(&mut gate).await;
            assert_eq!(read.ends_with(&endless_header_section()), ends, "{peer:?}");
        }
    }
}
