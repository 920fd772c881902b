//! Two sidecars of one service on one host, while one takes over from the other: the service works on requests that
//! either of them delivered, and its calls come to either. Each asks the other on whose behalf a call may be.
//!
//! Lines of JSON over a Unix socket, which came with the listening sockets and so from a process of the same user that
//! can read the same state key.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, BytesMut};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use testudo_model::{TransactionId, limits::MAX_TOKEN_BYTES};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot},
};

/// Questions on their way. Who finds no room is told the worst.
const ASKED_AT_ONCE: usize = 1024;
/// Time for an answer: the other process is on the same host.
const PATIENCE: Duration = Duration::from_millis(500);
/// A token and what is around it.
const MAX_LINE_BYTES: u64 = 2 * MAX_TOKEN_BYTES as u64;
/// What may wait for the other to read it: all answers that it can ask for at once. One that reads nothing has gone.
const MAX_UNWRITTEN_BYTES: usize = ASKED_AT_ONCE * 2 * MAX_TOKEN_BYTES;

/// Who stands behind the requests that a sidecar has delivered under a trace and that are open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Behind {
    /// No request is open.
    Nothing,
    /// One is that belongs to nobody, or several that belong to different users.
    Nobody,
    /// All are for the user of this transaction token.
    One(Arc<str>),
}

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// Who is behind this trace?
    Trace(String),
    /// Has the service seen the token of this transaction?
    Transaction(TransactionId),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Trace(Behind),
    Transaction(bool),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The sender answers from now on.
    Here,
    Question(u64, Question),
    Answer(u64, Answer),
}

/// What a sidecar can say about its own deliveries.
pub(crate) trait Knows: Send + Sync + 'static {
    fn behind(&self, trace: &str) -> Behind;
    fn has_seen(&self, transaction: &TransactionId) -> bool;
}

/// The other sidecars of the service on this host: none most of the time.
#[derive(Default)]
pub(crate) struct Siblings {
    known: Mutex<Vec<Arc<Sibling>>>,
    count: AtomicUsize,
}

type Asked = (Question, oneshot::Sender<Answer>);

struct Sibling(mpsc::Sender<Asked>);

impl Siblings {
    /// What the others say is behind `trace`.
    pub(crate) async fn behind(&self, trace: &str) -> Vec<Behind> {
        let answers = self.ask(&Question::Trace(trace.to_owned())).await;
        answers
            .into_iter()
            .flatten()
            .map(|answer| match answer {
                Answer::Trace(behind) => behind,
                Answer::Transaction(_) => Behind::Nobody,
            })
            .collect()
    }

    /// Whether one of the others has delivered `transaction`.
    pub(crate) async fn have_seen(&self, transaction: &TransactionId) -> bool {
        let answers = self.ask(&Question::Transaction(transaction.clone())).await;
        let is_yes = |answer: &Option<Answer>| matches!(answer, Some(Answer::Transaction(true)));
        answers.iter().any(is_yes)
    }

    /// Answers what another sidecar asks over `stream` out of `own`, and asks it, until it has gone. Resolves when it
    /// is there, or gone; the exchange goes on beside.
    pub(crate) async fn meet(self: &Arc<Self>, stream: UnixStream, own: Weak<impl Knows>) {
        let (asks, asked) = mpsc::channel(ASKED_AT_ONCE);
        let (is_here, here) = oneshot::channel();
        let siblings = Arc::clone(self);
        tokio::spawn(async move {
            let sibling = Arc::new(Sibling(asks));
            let exchange = Exchange {
                own,
                asked,
                open: HashMap::new(),
                asked_so_far: 0,
                unwritten: BytesMut::new(),
            };
            let arrived = || {
                siblings.lock().push(Arc::clone(&sibling));
                siblings.count.fetch_add(1, Ordering::Release);
                let _ = is_here.send(());
            };
            if let Err(error) = exchange.run(stream, arrived).await {
                tracing::debug!(%error, "the other sidecar has gone");
            }
            let mut known = siblings.lock();
            known.retain(|other| !Arc::ptr_eq(other, &sibling));
            siblings.count.store(known.len(), Ordering::Release);
        });
        // An error: it has gone.
        drop(here.await);
    }

    /// The answers of all; `None` from one that has gone.
    async fn ask(&self, question: &Question) -> Vec<Option<Answer>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let known = self.lock().clone();
        join_all(known.iter().map(|sibling| sibling.ask(question.clone()))).await
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Sibling>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sibling {
    /// Its answer: `None` if it has gone, and what allows least if it is too busy to say anything.
    async fn ask(&self, question: Question) -> Option<Answer> {
        let worst = match question {
            Question::Trace(_) => Answer::Trace(Behind::Nobody),
            Question::Transaction(_) => Answer::Transaction(false),
        };
        let (reply, answer) = oneshot::channel();
        match self.0.try_send((question, reply)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Some(worst),
            Err(mpsc::error::TrySendError::Closed(_)) => return None,
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer.ok(),
            Err(_) => Some(worst),
        }
    }
}

/// One side of the exchange.
struct Exchange<K> {
    own: Weak<K>,
    asked: mpsc::Receiver<Asked>,
    open: HashMap<u64, oneshot::Sender<Answer>>,
    asked_so_far: u64,
    /// Lines that the other has not taken yet. Not awaited in between: two that only write wait for each other.
    unwritten: BytesMut,
}

impl<K: Knows> Exchange<K> {
    async fn run(mut self, stream: UnixStream, arrived: impl FnOnce()) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut arrived = Some(arrived);
        self.write(&Line::Here)?;
        let mut line = Vec::new();
        loop {
            let mut limited = (&mut reader).take(MAX_LINE_BYTES - line.len() as u64);
            tokio::select! {
                // Cut off, it goes on where it was: `line` keeps what has come.
                read = limited.read_until(b'\n', &mut line) => {
                    if read? == 0 || line.last() != Some(&b'\n') {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let message = serde_json::from_slice(&line)?;
                    line.clear();
                    match message {
                        Line::Here => if let Some(arrived) = arrived.take() { arrived() },
                        Line::Question(number, question) => {
                            let answer = self.answer(&question)?;
                            self.write(&Line::Answer(number, answer))?;
                        }
                        Line::Answer(number, answer) => {
                            if let Some(reply) = self.open.remove(&number) {
                                // Who asked may have lost patience.
                                drop(reply.send(answer));
                            }
                        }
                    }
                }
                Some((question, reply)) = self.asked.recv() => {
                    self.open.retain(|_, reply| !reply.is_closed());
                    self.asked_so_far += 1;
                    self.open.insert(self.asked_so_far, reply);
                    self.write(&Line::Question(self.asked_so_far, question))?;
                }
                written = writer.write_buf(&mut self.unwritten), if !self.unwritten.is_empty() => {
                    written?;
                }
            }
        }
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer((&mut self.unwritten).writer(), line)?;
        self.unwritten.put_u8(b'\n');
        if self.unwritten.len() > MAX_UNWRITTEN_BYTES {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    fn answer(&self, question: &Question) -> io::Result<Answer> {
        let own = self.own.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        Ok(match question {
            Question::Trace(trace) => Answer::Trace(own.behind(trace)),
            Question::Transaction(transaction) => Answer::Transaction(own.has_seen(transaction)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table(HashMap<&'static str, Behind>);

    impl Knows for Table {
        fn behind(&self, trace: &str) -> Behind {
            self.0.get(trace).cloned().unwrap_or(Behind::Nothing)
        }

        fn has_seen(&self, _: &TransactionId) -> bool {
            !self.0.is_empty()
        }
    }

    fn table(known: impl IntoIterator<Item = (&'static str, Behind)>) -> Arc<Table> {
        Arc::new(Table(known.into_iter().collect()))
    }

    #[tokio::test]
    async fn each_asks_the_other_until_that_one_has_gone() {
        let alice = Behind::One("token of alice".into());
        let old = table([("a", alice.clone()), ("b", Behind::Nobody)]);
        let new = table([]);
        let (one, other) = UnixStream::pair().unwrap();
        let (of_old, of_new) = (Arc::<Siblings>::default(), Arc::<Siblings>::default());
        tokio::join!(
            of_old.meet(one, Arc::downgrade(&old)),
            of_new.meet(other, Arc::downgrade(&new))
        );
        assert_eq!(of_new.behind("a").await, [alice]);
        assert_eq!(of_new.behind("b").await, [Behind::Nobody]);
        assert_eq!(of_new.behind("c").await, [Behind::Nothing]);
        assert_eq!(of_old.behind("a").await, [Behind::Nothing]);
        let transaction = "txn_01KAN3YH0000000000000000AA".parse().unwrap();
        assert!(of_new.have_seen(&transaction).await);
        assert!(!of_old.have_seen(&transaction).await);

        drop(old);
        while !of_new.behind("a").await.is_empty() {}
        assert!(
            of_new.behind("a").await.is_empty(),
            "nobody is asked any more"
        );
    }

    /// More than a socket holds, in both directions at once.
    #[tokio::test]
    async fn two_that_ask_much_at_once_do_not_wait_for_each_other() {
        let alice = Behind::One("t".repeat(MAX_TOKEN_BYTES / 2).into());
        let (one, other) = (table([("a", alice.clone())]), table([("a", alice.clone())]));
        let (to_one, to_other) = UnixStream::pair().unwrap();
        let (of_one, of_other) = (Arc::<Siblings>::default(), Arc::<Siblings>::default());
        tokio::join!(
            of_one.meet(to_one, Arc::downgrade(&one)),
            of_other.meet(to_other, Arc::downgrade(&other))
        );
        let asks = |siblings: &Arc<Siblings>| {
            let siblings = Arc::clone(siblings);
            join_all((0..128).map(move |_| {
                let siblings = Arc::clone(&siblings);
                async move { siblings.behind("a").await }
            }))
        };
        // Whatever of it was answered in time: afterwards each has an ear for the other again.
        tokio::join!(asks(&of_one), asks(&of_other));
        for siblings in [&of_one, &of_other] {
            let answered = async { while siblings.behind("a").await != [alice.clone()] {} };
            let answered = tokio::time::timeout(20 * PATIENCE, answered).await;
            assert!(answered.is_ok());
        }
    }

    #[tokio::test]
    async fn one_that_says_nothing_allows_nothing() {
        let (one, mut silent) = UnixStream::pair().unwrap();
        let own = table([]);
        let siblings = Arc::<Siblings>::default();
        silent.write_all(b"\"here\"\n").await.unwrap();
        siblings.meet(one, Arc::downgrade(&own)).await;
        assert_eq!(siblings.behind("a").await, [Behind::Nobody]);
        let transaction = "txn_01KAN3YH0000000000000000AA".parse().unwrap();
        assert!(!siblings.have_seen(&transaction).await);
    }

    #[tokio::test]
    async fn one_that_speaks_otherwise_is_not_asked() {
        for said in [&b"hello\n"[..], &[b'x'; 2 * MAX_LINE_BYTES as usize]] {
            let (one, mut odd) = UnixStream::pair().unwrap();
            let own = table([]);
            let siblings = Arc::<Siblings>::default();
            let speaking = async {
                drop(odd.write_all(said).await);
            };
            tokio::join!(siblings.meet(one, Arc::downgrade(&own)), speaking);
            assert!(siblings.behind("a").await.is_empty());
        }
    }
}
