//! The gate as a stream: hyper reads through it and sees only what was judged.
//!
//! Reads go straight into hyper's buffer and are judged there. Bytes are copied only when hyper may not have them
//! yet: a head that is not complete, and whatever follows a request that asks for another protocol.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use testudo_model::limits;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::requests::{Next, Requests};
use crate::{
    framing::FramingError,
    serve::{Active, Activity},
};

/// What is read at once while nobody else reads.
const READ_BYTES: usize = 4096;
/// What hyper reads in place of a refused head, so that the refusal is answered in its turn, like any request.
const IN_PLACE_OF_REFUSED: &[u8] =
    b"GET / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n";

/// What gate and service tell each other about one connection. Requests are numbered from 1.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    refused: OnceLock<(u64, FramingError)>,
    /// The last request that was answered.
    answered: AtomicU64,
    /// Its answer ended HTTP on this connection.
    switched: AtomicBool,
    waiting: AtomicWaker,
    /// Every request is answered, and the next has not begun.
    is_between: AtomicBool,
    /// Everything that was written is sent.
    is_flushed: AtomicBool,
}

impl Verdict {
    /// Why request `number` is refused, if it is.
    pub(crate) fn refusal_of(&self, number: u64) -> Option<FramingError> {
        match self.refused.get() {
            Some((refused, error)) if *refused == number => Some(*error),
            _ => None,
        }
    }

    /// Notes that the answer to request `number` is ready, and an ordinary one. The bytes behind it are the next
    /// request.
    pub(crate) fn answer(&self, number: u64) {
        self.answered.store(number, Ordering::Release);
        self.waiting.wake();
    }

    /// Whether the reader has nothing left that it was given, and nothing that it should write.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_between.load(Ordering::Acquire) && self.is_flushed.load(Ordering::Acquire)
    }

    /// Notes that the answer to request `number` ends HTTP: 101, or 2xx to CONNECT. The bytes behind it pass
    /// unread.
    pub(crate) fn switch(&self, number: u64) {
        self.switched.store(true, Ordering::Release);
        self.answer(number);
    }
}

/// A stream whose requests are judged on their way to hyper.
pub(crate) struct Gate<S> {
    stream: S,
    requests: Requests,
    mode: Mode,
    /// Bytes that were read and that hyper does not have.
    held: BytesMut,
    /// How many of them it may have.
    cleared: usize,
    verdict: Arc<Verdict>,
    activity: Arc<Activity>,
    head_timeout: Duration,
    /// Of the head that is not complete.
    deadline: Option<HeadDeadline>,
    linger: Option<Linger>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Bytes are judged as they are read.
    Reading,
    /// Bytes that are held must be judged first.
    Judging,
    /// Bytes are held until the last request is answered.
    Waiting,
    /// Bytes are none of the gate's business.
    Passing,
    /// A head was refused: nothing is read any more.
    Refused,
    /// A body was malformed: reading fails.
    Broken,
}

/// The end of a client's time for a head that has begun. Until then the connection is not idle.
struct HeadDeadline {
    sleep: Pin<Box<Sleep>>,
    _active: Active,
}

/// RFC 9112 section 9.6: who closes while the client still sends makes the client's host throw the answer away. So
/// what comes is read for a while, and thrown away here.
struct Linger {
    sleep: Pin<Box<Sleep>>,
    remaining: usize,
}

impl<S> Gate<S> {
    /// Judges what `stream` brings, beginning with bytes of it that were `read` already.
    pub(crate) fn new(
        stream: S,
        read: BytesMut,
        verdict: Arc<Verdict>,
        activity: Arc<Activity>,
    ) -> Self {
        Self {
            stream,
            requests: Requests::default(),
            mode: Mode::Judging,
            held: read,
            cleared: 0,
            verdict,
            activity,
            head_timeout: limits::HEADER_READ_TIMEOUT,
            deadline: None,
            linger: None,
        }
    }

    /// Gives the reader what it may have.
    fn hand_over(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.cleared.min(buffer.remaining());
        buffer.put_slice(self.held.get(..length).unwrap_or_default());
        self.held.advance(length);
        self.cleared -= length;
        if self.held.is_empty() {
            // Its memory is of no more use.
            self.held = BytesMut::new();
        }
    }

    /// Judges the bytes that are held.
    fn judge(&mut self) {
        let (accepted, next) = self.requests.follow(&self.held);
        self.settle(accepted, next);
    }

    /// Acts on a judgement: the first `accepted` bytes that are held may go on.
    fn settle(&mut self, accepted: usize, next: Next) {
        self.cleared = accepted;
        if accepted > 0 {
            self.deadline = None;
        }
        self.mode = match next {
            Next::More => Mode::Reading,
            Next::Answer => Mode::Waiting,
            Next::Refused(error) => {
                tracing::debug!(%error, "request refused");
                // There is one refusal on a connection, and nothing is read after it.
                let _ = self.verdict.refused.set((self.requests.count(), error));
                self.deadline = None;
                self.held.truncate(accepted);
                self.held.extend_from_slice(IN_PLACE_OF_REFUSED);
                self.cleared = self.held.len();
                Mode::Refused
            }
            Next::Broken(error) => {
                tracing::debug!(%error, "request body refused");
                self.held.truncate(accepted);
                Mode::Broken
            }
        };
    }

    /// Waits for the answer to the last request.
    fn poll_answered(&mut self, context: &Context<'_>) -> Poll<()> {
        self.verdict.waiting.register(context.waker());
        if self.verdict.answered.load(Ordering::Acquire) < self.requests.count() {
            return Poll::Pending;
        }
        self.mode = if self.verdict.switched.load(Ordering::Acquire) {
            Mode::Passing
        } else {
            self.requests.go_on();
            Mode::Judging
        };
        Poll::Ready(())
    }

    /// Resolves when a head that has begun takes too long.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.held.is_empty() {
            return Poll::Pending;
        }
        let deadline = self.deadline.get_or_insert_with(|| HeadDeadline {
            sleep: Box::pin(tokio::time::sleep(self.head_timeout)),
            _active: self.activity.begin(),
        });
        deadline.sleep.as_mut().poll(context)
    }

    /// Whether the client may be sending what nobody will read.
    fn has_more_to_come(&self) -> bool {
        match self.mode {
            Mode::Refused | Mode::Broken => true,
            Mode::Passing => false,
            Mode::Reading | Mode::Judging | Mode::Waiting => {
                self.requests.is_in_body() || !self.held.is_empty()
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Reads into `buffer` and judges what came there.
    fn poll_judged(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Read>> {
        let before = buffer.filled().len();
        if Pin::new(&mut self.stream)
            .poll_read(context, buffer)?
            .is_pending()
        {
            ready!(self.poll_deadline(context));
            let next = self.requests.give_up();
            self.settle(0, next);
            return Poll::Ready(Ok(Read::Nothing));
        }
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        if fresh.is_empty() {
            return Poll::Ready(Ok(Read::End));
        }
        if !self.held.is_empty() {
            self.held.extend_from_slice(fresh);
            buffer.set_filled(before);
            self.judge();
            return Poll::Ready(Ok(Read::Nothing));
        }
        let (accepted, next) = self.requests.follow(fresh);
        self.held
            .extend_from_slice(fresh.get(accepted..).unwrap_or_default());
        buffer.set_filled(before + accepted);
        self.settle(0, next);
        Poll::Ready(Ok(match accepted {
            0 => Read::Nothing,
            _ => Read::Some,
        }))
    }

    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let linger = self.linger.get_or_insert_with(|| Linger {
            sleep: Box::pin(tokio::time::sleep(limits::LINGER_TIMEOUT)),
            remaining: limits::MAX_LINGER_BYTES,
        });
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return linger.sleep.as_mut().poll(context),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    let read = buffer.filled().len();
                    linger.remaining = linger.remaining.saturating_sub(read);
                    if read == 0 || linger.remaining == 0 {
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Resolves when there is something for a reader: bytes, or something for it to wait for. `false`: the end.
    ///
    /// # Errors
    /// The stream's.
    pub(crate) async fn readable(&mut self) -> io::Result<bool> {
        poll_fn(|context| self.poll_readable(context)).await
    }

    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // Not kept: most of the time nothing comes, on most connections.
        let mut bytes = [0; READ_BYTES];
        while self.cleared == 0 {
            match self.mode {
                Mode::Reading => {
                    let mut buffer = ReadBuf::new(&mut bytes);
                    match ready!(self.poll_judged(context, &mut buffer))? {
                        Read::Nothing => {}
                        Read::Some => self.keep(buffer.filled()),
                        Read::End => return Poll::Ready(Ok(false)),
                    }
                }
                Mode::Judging => self.judge(),
                Mode::Waiting | Mode::Passing | Mode::Refused | Mode::Broken => break,
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Gives the reader what comes next and what it may have.
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.cleared > 0 || buffer.remaining() == 0 {
                self.hand_over(buffer);
                return Poll::Ready(Ok(()));
            }
            match self.mode {
                Mode::Reading => match ready!(self.poll_judged(context, buffer))? {
                    Read::Nothing => {}
                    Read::Some | Read::End => return Poll::Ready(Ok(())),
                },
                Mode::Judging => self.judge(),
                Mode::Waiting => ready!(self.poll_answered(context)),
                Mode::Passing if self.held.is_empty() => {
                    return Pin::new(&mut self.stream).poll_read(context, buffer);
                }
                Mode::Passing => self.cleared = self.held.len(),
                // The answer ends the connection.
                Mode::Refused => return Poll::Pending,
                Mode::Broken => {
                    let error = "the framing of the body is malformed";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
        }
    }

    /// Keeps what was `accepted` in front of what is held.
    fn keep(&mut self, accepted: &[u8]) {
        let mut held = BytesMut::with_capacity(accepted.len() + self.held.len());
        held.extend_from_slice(accepted);
        held.extend_from_slice(&self.held);
        self.held = held;
        self.cleared = accepted.len();
    }

    /// Whether every request is answered, and the next has not begun.
    fn is_between(&self) -> bool {
        self.mode == Mode::Reading
            && self.held.is_empty()
            && !self.requests.is_in_body()
            && self.verdict.answered.load(Ordering::Acquire) == self.requests.count()
    }
}

/// What a read left in the reader's buffer.
enum Read {
    Nothing,
    Some,
    End,
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        let read = gate.poll_next(context, buffer);
        let is_between = read.is_pending() && gate.is_between();
        gate.verdict.is_between.store(is_between, Ordering::Release);
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.verdict.is_flushed.store(false, Ordering::Release);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.verdict.is_flushed.store(false, Ordering::Release);
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        let is_flushed = matches!(flushed, Poll::Ready(Ok(())));
        self.verdict.is_flushed.store(is_flushed, Ordering::Release);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if gate.linger.is_none() {
            ready!(Pin::new(&mut gate.stream).poll_shutdown(context))?;
            if !gate.has_more_to_come() {
                return Poll::Ready(Ok(()));
            }
        }
        gate.poll_linger(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    struct Guarded {
        client: DuplexStream,
        gate: Gate<DuplexStream>,
        verdict: Arc<Verdict>,
    }

    fn guarded() -> Guarded {
        let (client, stream) = duplex(64 * 1024);
        let verdict = Arc::<Verdict>::default();
        let gate = Gate::new(
            stream,
            BytesMut::new(),
            Arc::clone(&verdict),
            Activity::new(),
        );
        Guarded {
            client,
            gate,
            verdict,
        }
    }

    /// What the reader gets until it has to wait.
    async fn available(gate: &mut Gate<DuplexStream>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let all = async { while gate.read_buf(&mut bytes).await.unwrap() > 0 {} };
        let _ = tokio::time::timeout(Duration::from_millis(20), all).await;
        bytes
    }

    #[tokio::test]
    async fn the_reader_gets_whole_heads_and_bodies_as_they_come() {
        let Guarded {
            mut client,
            mut gate,
            ..
        } = guarded();
        client.write_all(&GET[..20]).await.unwrap();
        assert_eq!(available(&mut gate).await, b"");
        client.write_all(&GET[20..]).await.unwrap();
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
            .await
            .unwrap();
        let read = available(&mut gate).await;
        assert!(read.starts_with(GET) && read.ends_with(b"hel"));
        client.write_all(b"loGET").await.unwrap();
        assert_eq!(available(&mut gate).await, b"lo");
        drop(client);
        assert_eq!(available(&mut gate).await, b"");
    }

    #[tokio::test]
    async fn the_reader_never_sees_a_refused_head_nor_anything_behind_it() {
        let Guarded {
            mut client,
            mut gate,
            verdict,
        } = guarded();
        let bad = b"GET /admin HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
        client.write_all(&[GET, bad, GET].concat()).await.unwrap();
        assert_eq!(
            available(&mut gate).await,
            [GET, IN_PLACE_OF_REFUSED].concat()
        );
        assert_eq!(verdict.refusal_of(1), None);
        assert_eq!(verdict.refusal_of(2), Some(FramingError::Host));
        client.write_all(GET).await.unwrap();
        assert_eq!(available(&mut gate).await, b"");
    }

    #[tokio::test]
    async fn reading_a_malformed_body_fails() {
        let Guarded {
            mut client,
            mut gate,
            ..
        } = guarded();
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client
            .write_all(&[head, &b"5\r\nhello\n0\r\n\r\n"[..]].concat())
            .await
            .unwrap();
        let mut read = Vec::new();
        let error = gate.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(read, [head, &b"5\r\nhello"[..]].concat());
    }

    #[tokio::test]
    async fn bytes_behind_an_upgrade_wait_for_its_answer() {
        let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
        let Guarded {
            mut client,
            mut gate,
            verdict,
        } = guarded();
        client
            .write_all(&[GET, upgrade, b"\x81\x00 no HTTP"].concat())
            .await
            .unwrap();
        assert_eq!(available(&mut gate).await, [GET, upgrade].concat());
        verdict.answer(1);
        assert_eq!(available(&mut gate).await, b"");
        verdict.switch(2);
        assert_eq!(available(&mut gate).await, b"\x81\x00 no HTTP");

        let Guarded {
            mut client,
            mut gate,
            verdict,
        } = guarded();
        client.write_all(&[upgrade, GET].concat()).await.unwrap();
        assert_eq!(available(&mut gate).await, upgrade);
        let reader = tokio::spawn(async move { available(&mut gate).await });
        tokio::task::yield_now().await;
        verdict.answer(1);
        assert_eq!(reader.await.unwrap(), GET, "the answer wakes the reader");
    }

    #[tokio::test]
    async fn a_head_has_its_time_from_its_first_byte_and_silence_has_none() {
        let Guarded {
            mut client,
            mut gate,
            verdict,
        } = guarded();
        gate.head_timeout = Duration::from_millis(200);
        let silence = tokio::time::timeout(2 * gate.head_timeout, gate.read_u8()).await;
        assert!(silence.is_err());
        let began = tokio::time::Instant::now();
        let slow = tokio::spawn(async move {
            for byte in GET {
                client.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            client
        });
        let mut read = [0; IN_PLACE_OF_REFUSED.len()];
        gate.read_exact(&mut read).await.unwrap();
        assert_eq!(read, IN_PLACE_OF_REFUSED);
        assert!(began.elapsed() >= gate.head_timeout);
        assert_eq!(verdict.refusal_of(1), Some(FramingError::Timeout));
        slow.await.unwrap();
    }

    #[tokio::test]
    async fn the_client_of_a_refused_request_can_read_the_answer_while_it_still_sends() {
        let Guarded {
            mut client,
            mut gate,
            ..
        } = guarded();
        client.write_all(b"bad\r\n").await.unwrap();
        available(&mut gate).await;
        let closing = tokio::spawn(async move {
            gate.write_all(b"HTTP/1.1 400").await.unwrap();
            gate.shutdown().await
        });
        for _ in 0..10 {
            client.write_all(&[b'a'; 32 * 1024]).await.unwrap();
        }
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 400");
        drop(client);
        closing.await.unwrap().unwrap();
    }
}
