//! Requests near the border of what is valid: good ones, with parts of table A of the bad-input table in them, and with
//! bytes changed.

use std::hash::{BuildHasher, Hasher, RandomState};

use proptest::{
    prelude::*,
    sample::{Index, select},
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// The target of the request that follows each.
pub const LAST: &str = "/public/last";

/// So many connections, each with a request and the last one behind it. Both have the number of the connection.
pub fn connections(count: usize, is_random: bool) -> Vec<Vec<u8>> {
    let rng = match is_random {
        true => TestRng::from_seed(RngAlgorithm::ChaCha, &unforeseeable()),
        false => TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    };
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let last = format!(
        "GET {LAST} HTTP/1.1\r\nHost: shop\r\nX-Case: {{case}}\r\nConnection: close\r\n\r\n"
    );
    let request = request();
    let connection = |number| {
        let tree = request.new_tree(&mut runner).unwrap();
        numbered(&[&tree.current(), last.as_bytes()].concat(), number)
    };
    (0..count).map(connection).collect()
}

fn unforeseeable() -> [u8; 32] {
    std::array::from_fn(|_| RandomState::new().build_hasher().finish().to_le_bytes()[0])
}

/// With the number in place of each `{case}`, and as long as that, so that lengths stay what they are.
fn numbered(template: &[u8], number: usize) -> Vec<u8> {
    let number = format!("{number:06}");
    let (mut bytes, mut rest) = (Vec::new(), template);
    while let Some(at) = rest.windows(6).position(|window| window == b"{case}") {
        bytes.extend_from_slice(&rest[..at]);
        bytes.extend_from_slice(number.as_bytes());
        rest = &rest[at + 6..];
    }
    bytes.extend_from_slice(rest);
    bytes
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::collection::vec(field(), 0..4);
    let changes = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(change(), 1..3),
    ];
    (line(), fields, any::<Index>(), body(), changes).prop_map(
        |(line, mut fields, at, (framing, body), changes)| {
            fields.insert(at.index(fields.len() + 1), "Host: shop\r\n");
            let fields = fields.concat();
            let head = format!("{line}\r\nX-Case: {{case}}\r\n{fields}{framing}\r\n");
            let mut bytes = [head.into_bytes(), body.into_bytes()].concat();
            for change in changes {
                change.make(&mut bytes);
            }
            bytes
        },
    )
}

fn line() -> impl Strategy<Value = &'static str> {
    let good = select(vec![
        "GET /public HTTP/1.1",
        "GET /public/a?b=c&d HTTP/1.1",
        "POST /public HTTP/1.1",
        "POST /public/%61/b HTTP/1.1",
        "POST /public?x=%0d%0aX HTTP/1.1",
        "GET http://shop/public/a?b HTTP/1.1",
        "POST HTTP://shop/public/a HTTP/1.1",
        "\r\nGET /public HTTP/1.1",
        "GET /public/a=b HTTP/1.1",
        "GET /public/!$&'()*+,-._~:@ HTTP/1.1",
        "GET /public?a=[]{}|^`'\\ HTTP/1.1",
    ]);
    let odd = select(vec![
        "GET  /public HTTP/1.1",
        "GET /public  HTTP/1.1",
        "GET\t/public HTTP/1.1",
        "GET /public HTTP/1.1 ",
        "GET /public HTTP/1.2",
        "GET /public",
        "GET /public#a HTTP/1.1",
        "GET /public/\u{e9} HTTP/1.1",
        "GET /public\\a HTTP/1.1",
        "GET /public;a HTTP/1.1",
        "GET /public?a b HTTP/1.1",
        "GET /public?a=<> HTTP/1.1",
        "GET http://shop HTTP/1.1",
        "GET http://shop?public HTTP/1.1",
        "GET http://other/public HTTP/1.1",
        "get /public HTTP/1.1",
        "POST /public HTTP/1.0",
        "\n\nGET /public HTTP/1.1",
    ]);
    prop_oneof![6 => good, 1 => odd]
}

fn field() -> impl Strategy<Value = &'static str> {
    let good = select(vec![
        "Accept: */*\r\n",
        "X-Empty:\r\n",
        "X-Spaces: \t a b\t \r\n",
        "x-obs: gr\u{f6}\u{df}er\r\n",
        "X!#$%&'*+-.^_`|~0: token\r\n",
        "Cookie: a=b; c=\"d\"\r\n",
        "Content-Type: text/plain; charset=\"utf-8\"\r\n",
        "X-Colons: a: b: c\r\n",
        "Expect: 100-continue\r\n",
        "Content-Encoding: chunked\r\n",
        "X-Length: Content-Length: 5\r\n",
        "Upgrade: h2c\r\n",
        "TE: trailers\r\n",
        "Trailer: X-A\r\n",
        "Content_Length: 5\r\n",
        "Content.Length: 7\r\n",
        "X-Transfer-Encoding: chunked\r\n",
        "Keep-Alive: timeout=5\r\n",
    ]);
    let odd = select(vec![
        "X-A : b\r\n",
        "X A: b\r\n",
        ": b\r\n",
        "X-A\r\n",
        " folded\r\n",
        "\tfolded: a\r\n",
        "X-A: b\0c\r\n",
        "X-A: b\rc\r\n",
        "X-A: b\nX-B: c\r\n",
        "X-A: b\n",
        "X-A: b\r\r\n",
        "X-\u{c4}: b\r\n",
        "X-A: \x7f\r\n",
        "X-A: \x0b\r\n",
        "Host: shop\r\n",
        "Host: other\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 5\r\n",
        "content-length:\t5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\x0b\r\n",
        "Expect: 200-ok\r\n",
    ]);
    prop_oneof![8 => good, 1 => odd]
}

/// The field that frames a body, and the body.
fn body() -> impl Strategy<Value = (String, String)> {
    let none = Just((String::new(), String::new()));
    let length = select(vec![
        "{}", "{}", "{}", " {}", "{} ", "0{}", "{}\t", "\t{}", "+{}", "{}, {}",
    ]);
    let counted = (content(), length).prop_map(|(content, length)| {
        let length = length.replace("{}", &content.len().to_string());
        (format!("Content-Length: {length}\r\n"), content.to_owned())
    });
    let coding = select(vec![
        "chunked",
        "chunked",
        "chunked",
        "Chunked",
        " chunked ",
        "chunked\t",
        "xchunked",
    ]);
    let chunks = prop::collection::vec((content(), chunk()), 0..4);
    let chunked = (coding, chunks, trailer()).prop_map(|(coding, chunks, trailer)| {
        let mut body = String::new();
        // One without content would be the last.
        for (content, chunk) in chunks.iter().filter(|(content, _)| !content.is_empty()) {
            let size = format!("{:x}", content.len());
            body.push_str(&chunk.replace("{size}", &size).replace("{content}", content));
        }
        (format!("Transfer-Encoding: {coding}\r\n"), body + trailer)
    });
    prop_oneof![2 => none, 3 => counted, 4 => chunked]
}

fn content() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "x",
        "hello",
        "0\r\n\r\n",
        "\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "GET /public/smuggled HTTP/1.1\r\nHost: shop\r\nX-Case: {case}\r\n\r\n",
    ])
}

fn chunk() -> impl Strategy<Value = &'static str> {
    let good = select(vec![
        "{size}\r\n{content}\r\n",
        "{size}\r\n{content}\r\n",
        "000{size}\r\n{content}\r\n",
        "{size};a\r\n{content}\r\n",
        "{size};a=b\r\n{content}\r\n",
        "{size};a=\"b;c\"\r\n{content}\r\n",
    ]);
    let odd = select(vec![
        "{size};a=\"\\\"\"\r\n{content}\r\n",
        "{size} \r\n{content}\r\n",
        " {size}\r\n{content}\r\n",
        "{size}\t;a\r\n{content}\r\n",
        "{size}\n{content}\r\n",
        "{size}\r\n{content}\n",
        "{size}\r\n{content}",
        "0x{size}\r\n{content}\r\n",
        "+{size}\r\n{content}\r\n",
        "{size}_0\r\n{content}\r\n",
        "{size};\r\n{content}\r\n",
        "{size};a\rb\r\n{content}\r\n",
        "{size};a\nb\r\n{content}\r\n",
        "{size};a\0\r\n{content}\r\n",
        "10000000000000000{size}\r\n{content}\r\n",
    ]);
    prop_oneof![8 => good, 1 => odd]
}

/// The last chunk, and what follows it.
fn trailer() -> impl Strategy<Value = &'static str> {
    let good = select(vec![
        "0\r\n\r\n",
        "0\r\n\r\n",
        "00\r\n\r\n",
        "0;a=b\r\n\r\n",
        "0\r\nX-A: b\r\n\r\n",
    ]);
    let odd = select(vec![
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: other\r\n\r\n",
        "0\r\nX-A : b\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0\r\nX-A\r\n\r\n",
        "0\n\n",
        "0\r\n\n",
        "0\r\n\r",
        "0\r\n",
    ]);
    prop_oneof![8 => good, 1 => odd]
}

/// A byte that is another, one more, or gone.
#[derive(Debug, Clone)]
struct Change {
    at: Index,
    how: u8,
    byte: u8,
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = select(b"\r\n\t \0\x0b\x0c\x7f\x80\xff:;,#?%\"\\+-_0159aAxX/".to_vec());
    (any::<Index>(), 0..4_u8, bytes).prop_map(|(at, how, byte)| Change { at, how, byte })
}

impl Change {
    fn make(&self, bytes: &mut Vec<u8>) {
        let at = self.at.index(bytes.len());
        match self.how {
            0 => bytes[at] = self.byte,
            1 => bytes.insert(at, self.byte),
            2 => drop(bytes.remove(at)),
            _ => bytes.insert(at, bytes[at]),
        }
    }
}
