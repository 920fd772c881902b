//! What our HTTP/1.1 reader accepts, everybody else reads as the same requests: nginx, Node's `http`, Python's h11 and
//! hyper agree about method, target, body and number, both of the bytes that were accepted and of what goes on to the
//! service. `./test.sh` installs the readers; `TESTUDO_TEST_FAST=1` leaves this out.
//!
//! `TESTUDO_DIFFERENTIAL_CASES=100000` tries as many requests, other ones each time.

mod readers;
mod requests;

use std::{
    collections::BTreeMap,
    env,
    io::{Read, Write},
    net::SocketAddr,
    thread,
    time::Duration,
};

use readers::{Readers, Reading};

use crate::{installed::left_out, recorder::Seen, shop::Shop, wire};

/// Requests tried, unless the environment says otherwise.
const CASES: usize = 1_000;
/// Connections at a time.
const THREADS: usize = 8;
/// Time to answer a request. Whoever waits for more of it by then takes it for another than we do.
const PATIENCE: Duration = Duration::from_secs(1);

/// A request that was accepted: its bytes with those of the last request, and what went on of both.
struct Accepted {
    sent: Vec<u8>,
    forwarded: Vec<Seen>,
}

#[test]
fn what_is_accepted_is_read_by_everybody_as_the_same_requests() {
    if left_out() {
        return;
    }
    let wanted = env::var("TESTUDO_DIFFERENTIAL_CASES").map(|cases| cases.parse().unwrap());
    let connections = requests::connections(*wanted.as_ref().unwrap_or(&CASES), wanted.is_ok());
    let shop = Shop::open("");
    let outbound = shop.fleet.address("/sidecars/helper/outbound");
    in_parallel(&connections, |connection| send(outbound, connection));
    let accepted = accepted(&connections, shop.upstream.take());
    let share = accepted.len() * 100 / connections.len();
    assert!(
        (25..=90).contains(&share),
        "{share} % accepted: little near the border is tried"
    );

    let readers = Readers::start();
    let differences = in_parallel(&accepted, |accepted| differences(&readers, accepted));
    let differences: Vec<String> = differences.into_iter().flatten().collect();
    assert!(
        differences.is_empty(),
        "{} of {} accepted:\n{}",
        differences.len(),
        accepted.len(),
        differences[..differences.len().min(12)].join("\n\n")
    );
}

/// Sends all of `connection` and waits for the end of the answers.
fn send(address: SocketAddr, connection: &[u8]) {
    let mut stream = wire::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Whoever refuses early may close before the rest is written.
    let _ = stream.write_all(connection);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Those of `connections` whose requests the service got, with what it got.
fn accepted(connections: &[Vec<u8>], seen: Vec<Seen>) -> Vec<Accepted> {
    let mut by_case: BTreeMap<usize, Vec<Seen>> = BTreeMap::new();
    for request in seen {
        if let Some(case) = request.only("x-case").and_then(|case| case.parse().ok()) {
            by_case.entry(case).or_default().push(request);
        }
    }
    by_case
        .into_iter()
        // Without the last one something was missing, and with it alone the number was: nobody knows whose it is.
        .filter(|(_, forwarded)| {
            forwarded.len() > 1
                && forwarded
                    .last()
                    .is_some_and(|last| last.target() == requests::LAST)
        })
        .map(|(case, forwarded)| Accepted {
            sent: connections[case].clone(),
            forwarded,
        })
        .collect()
}

/// What is wrong with how the readers read a request.
fn differences(readers: &Readers, accepted: &Accepted) -> Vec<String> {
    let expected: Vec<Reading> = accepted.forwarded.iter().map(Reading::of).collect();
    let passed_on: Vec<u8> = accepted.forwarded.iter().flat_map(bytes_of).collect();
    let mut differences = Vec::new();
    for (reader, address) in readers.addresses() {
        let forwarded = readers::read_by(address, &passed_on, expected.len());
        if forwarded != expected {
            differences.push(format!(
                "{reader} reads what goes on otherwise: {forwarded:?} instead of {expected:?}\n{:?}",
                String::from_utf8_lossy(&passed_on)
            ));
        }
        let sent = readers::read_by(address, &accepted.sent, expected.len());
        // To refuse it is no other reading of it.
        let is_same = sent.is_empty()
            || sent.len() == expected.len()
                && sent
                    .iter()
                    .zip(&expected)
                    .all(|(sent, expected)| sent.means(expected));
        if !is_same {
            differences.push(format!(
                "{reader} reads what was sent otherwise: {sent:?} instead of {expected:?}\n{:?}",
                String::from_utf8_lossy(&accepted.sent)
            ));
        }
    }
    differences
}

fn bytes_of(seen: &Seen) -> Vec<u8> {
    [seen.head.as_bytes(), &seen.body].concat()
}

fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .chunks(items.len().div_ceil(THREADS))
            .map(|items| scope.spawn(move || items.iter().map(work).collect::<Vec<R>>()))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    })
}
