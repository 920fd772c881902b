//! The requests of one connection, one after the other: which bytes are whose.

use super::{
    body::{Body, BodyError, Progress},
    head::HeadReader,
};
use crate::framing::FramingError;

/// Follows the bytes of a connection from request to request.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Heads that were read, the refused one included.
    count: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Head(HeadReader),
    Body {
        body: Body,
        may_switch: bool,
    },
    /// Behind a request whose answer says what comes next.
    Waiting,
}

impl Default for Place {
    fn default() -> Self {
        Self::Head(HeadReader::default())
    }
}

/// Why no more bytes were accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// There were no more, or the head is not complete.
    More,
    /// Only the answer to the last request says whose the next bytes are (RFC 9110 sections 7.8 and 9.3.6).
    Answer,
    /// The head that begins here is refused.
    Refused(FramingError),
    /// The body that goes on here is malformed.
    Broken(BodyError),
}

impl Requests {
    /// Follows `bytes`, which begin where the accepted ones of the last call ended. Says how many are accepted now,
    /// and why not more.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> (usize, Next) {
        let mut accepted = 0;
        loop {
            let rest = bytes.get(accepted..).unwrap_or_default();
            match &mut self.place {
                Place::Head(reader) => match reader.read(rest) {
                    Ok(None) => return (accepted, Next::More),
                    Ok(Some((length, head))) => {
                        accepted += length;
                        self.count += 1;
                        self.place = Place::Body {
                            body: Body::new(head.body),
                            may_switch: head.may_switch,
                        };
                    }
                    Err(error) => {
                        self.count += 1;
                        return (accepted, Next::Refused(error));
                    }
                },
                Place::Body { body, may_switch } => {
                    let (length, progress) = body.read(rest);
                    accepted += length;
                    match progress {
                        Progress::Within => return (accepted, Next::More),
                        Progress::Complete if *may_switch => self.place = Place::Waiting,
                        Progress::Complete => self.place = Place::default(),
                        Progress::Broken(error) => return (accepted, Next::Broken(error)),
                    }
                }
                Place::Waiting => return (accepted, Next::Answer),
            }
        }
    }

    /// The answer was an ordinary one: another request may follow.
    pub(crate) fn go_on(&mut self) {
        self.place = Place::default();
    }

    /// The head under way takes too long.
    pub(crate) fn give_up(&mut self) -> Next {
        self.count += 1;
        Next::Refused(FramingError::Timeout)
    }

    /// Number of the last request whose head was read, counted from 1.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Whether bytes of the last request are to come.
    pub(crate) const fn is_in_body(&self) -> bool {
        matches!(self.place, Place::Body { .. })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What becomes of a connection's bytes.
    #[derive(Debug, PartialEq, Eq)]
    struct Outcome {
        accepted: Vec<u8>,
        requests: u64,
        end: Next,
    }

    /// Follows `bytes` as they come in parts, as the gate does: what is not accepted is shown again.
    fn outcome(parts: &[&[u8]]) -> Outcome {
        let mut requests = Requests::default();
        let (mut accepted, mut held) = (Vec::new(), Vec::new());
        let mut end = Next::More;
        for part in parts {
            held.extend_from_slice(part);
            let (length, next) = requests.follow(&held);
            accepted.extend(held.drain(..length));
            end = next;
            if next != Next::More {
                break;
            }
        }
        Outcome {
            accepted,
            requests: requests.count(),
            end,
        }
    }

    fn in_parts<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
        let (mut rest, mut parts) = (bytes, Vec::new());
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, behind) = rest.split_at((*length).clamp(1, rest.len()));
            parts.push(part);
            rest = behind;
        }
        parts
    }

    /// How a careless parser reads a connection: any line end, white space where it finds it, the last of several
    /// fields. Where it and the gate agree, nobody is led astray. Method, target, body of each request.
    fn carelessly(mut bytes: &[u8]) -> Vec<(String, String, Vec<u8>)> {
        let mut requests = Vec::new();
        loop {
            while let [b'\r' | b'\n', rest @ ..] = bytes {
                bytes = rest;
            }
            if bytes.is_empty() {
                return requests;
            }
            let request = line(&mut bytes);
            let mut words = request.split_ascii_whitespace();
            let (mut length, mut is_chunked) = (0, false);
            loop {
                let field = line(&mut bytes);
                if field.is_empty() {
                    break;
                }
                let (name, value) = field.split_once(':').unwrap_or((&field, ""));
                match name.trim().to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse().unwrap(),
                    "transfer-encoding" => is_chunked = value.to_lowercase().contains("chunked"),
                    _ => {}
                }
            }
            let mut body = Vec::new();
            if is_chunked {
                loop {
                    let size = line(&mut bytes);
                    let size = size.split(';').next().unwrap().trim().to_owned();
                    let size = usize::from_str_radix(&size, 16).unwrap();
                    if size == 0 {
                        break;
                    }
                    let (data, rest) = bytes.split_at(size.min(bytes.len()));
                    body.extend_from_slice(data);
                    bytes = rest;
                    line(&mut bytes);
                }
                while !line(&mut bytes).is_empty() {}
            } else {
                let (data, rest) = bytes.split_at(length.min(bytes.len()));
                (body, bytes) = (data.to_vec(), rest);
            }
            let mut word = || words.next().unwrap_or("").to_owned();
            requests.push((word(), word(), body));
        }
    }

    fn line(bytes: &mut &[u8]) -> String {
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(bytes.len(), |at| at + 1);
        let (line, rest) = bytes.split_at(end);
        *bytes = rest;
        String::from_utf8_lossy(line)
            .trim_end_matches(['\r', '\n'])
            .to_owned()
    }

    /// Pieces that requests, good and bad, are made of.
    fn piece() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "GET / HTTP/1.1\r\n",
            "POST /a?b HTTP/1.1\r\n",
            "POST / HTTP/1.0\r\n",
            "GET http://a/ HTTP/1.1\r\n",
            "CONNECT a:80 HTTP/1.1\r\n",
            "Host: a\r\n",
            "host:a\r\n",
            "Content-Length: 5\r\n",
            "Content-Length: 0\r\n",
            "content-length:05\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "X-A: b\tc\r\n",
            "X-A : b\r\n",
            " fold\r\n",
            "Upgrade: h2c\r\n",
            "Expect: 100-continue\r\n",
            "\r\n",
            "\n",
            "\r",
            "hello",
            "5\r\nhello\r\n",
            "0\r\n",
            "0\r\n\r\n",
            "5;a=b\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "a\r\n0123456789\r\n",
            ";",
            "GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            "POST /z HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n",
            "\0",
            ":",
        ])
    }

    fn connection() -> impl Strategy<Value = Vec<u8>> {
        let pieces =
            prop::collection::vec(piece(), 1..14).prop_map(|pieces| pieces.concat().into_bytes());
        (
            pieces,
            prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        )
            .prop_map(|(mut bytes, change)| {
                if let Some((at, byte)) = change {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                bytes
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn it_does_not_matter_how_the_bytes_come(
            bytes in connection(),
            lengths in prop::collection::vec(1_usize..40, 1..8),
        ) {
            let whole = outcome(&[&bytes]);
            prop_assert_eq!(&outcome(&in_parts(&bytes, &lengths)), &whole);
            prop_assert_eq!(&outcome(&in_parts(&bytes, &[1])), &whole);
        }

        #[test]
        fn careless_parsers_read_the_same_requests(bytes in connection()) {
            let read = outcome(&[&bytes]);
            let refused = u64::from(matches!(read.end, Next::Refused(_)));
            // Bytes behind a CONNECT are no request; a body may not be complete.
            if read.end == Next::Answer || matches!(read.end, Next::Broken(_)) {
                return Ok(());
            }
            let within = Requests::default().follow(&read.accepted).1 == Next::More;
            prop_assert!(within);
            let mut requests = Requests::default();
            requests.follow(&read.accepted);
            if requests.is_in_body() {
                return Ok(());
            }
            prop_assert_eq!(carelessly(&read.accepted).len() as u64, read.requests - refused);
        }
    }

    #[test]
    fn pipelined_requests_are_counted_and_the_bad_one_has_a_number() {
        let good = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        let chunked = "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let bad = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
        let connection = [good, chunked, good, bad, good].concat();
        let read = outcome(&[connection.as_bytes()]);
        assert_eq!(read.accepted, [good, chunked, good].concat().as_bytes());
        assert_eq!(
            (read.requests, read.end),
            (4, Next::Refused(FramingError::Host))
        );
        let bodies: Vec<_> = carelessly(&read.accepted)
            .into_iter()
            .map(|(method, target, body)| (method + " " + &target, body))
            .collect();
        let hello = |request: &str| (request.to_owned(), b"hello".to_vec());
        assert_eq!(
            bodies,
            [hello("POST /a"), hello("POST /b"), hello("POST /a")]
        );
    }

    #[test]
    fn nothing_behind_a_request_that_may_switch_is_looked_at_before_its_answer() {
        for (head, behind) in [
            (
                "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /admin HTTP/1.1\r\n",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
                "\x01\x05hello",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nhi",
                "no HTTP",
            ),
        ] {
            let mut requests = Requests::default();
            let bytes = [head, behind].concat();
            assert_eq!(
                requests.follow(bytes.as_bytes()),
                (head.len(), Next::Answer)
            );
            assert_eq!(requests.follow(behind.as_bytes()), (0, Next::Answer));
            requests.go_on();
            assert_eq!(requests.follow(b"GET / HTTP/1.1\r\n"), (0, Next::More));
        }
    }

    /// `cargo test --release -p testudo-dataplane --lib -- --ignored cost_of`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_head() {
        let head = format!(
            "GET /api/orders/1234?expand=lines HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux \
             x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: application/json\r\nAccept-Language: \
             en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAuthorization: Bearer {}\r\nConnection: \
             keep-alive\r\nSec-Fetch-Mode: cors\r\n\r\n",
            "a".repeat(700)
        );
        const ROUNDS: u32 = 200_000;
        for (what, bytes) in [
            ("typical", head.as_str()),
            ("least", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ] {
            let mut requests = Requests::default();
            let began = std::time::Instant::now();
            for _ in 0..ROUNDS {
                let read = requests.follow(std::hint::black_box(bytes.as_bytes()));
                assert_eq!(read, (bytes.len(), Next::More));
            }
            let each = began.elapsed() / ROUNDS;
            println!("{what} head of {} bytes: {each:?}", bytes.len());
        }
    }
}
