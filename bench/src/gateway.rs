//! The gateway beside peers that check nothing.

use crate::{
    Outcome, contender,
    fleet::{Fleet, Placement},
    floor::Wire,
    floors,
    measure::Amount,
    peers,
    scenario::{Bench, Comparison, Detail, Scenario},
    upstream::{self, ANSWER_BYTES},
};

/// Requests a second in `gateway-paced`: about half of what the slowest contender can do.
const PACE: u32 = 4_000;

/// Connections in `gateway-1000`.
const MANY: usize = 1_000;
/// Length of answers in `gateway-16k`.
const LONG_BYTES: usize = 16 * 1024;

/// How requests come, what is asked of them, and what is answered.
#[derive(Clone, Copy)]
struct Setting {
    what: &'static str,
    path: &'static str,
    amount: Amount,
    bytes: usize,
}

/// Measures `scenario`, which is about the gateway.
pub(crate) fn compare(bench: &Bench, scenario: Scenario) -> Outcome<Comparison> {
    let Setting {
        what,
        path,
        amount,
        bytes,
    } = setting(scenario, bench.amount());
    let folder = bench.subfolder(&format!("{scenario:?}"))?;
    let service = upstream::start(&folder, bytes)?;
    let upstream = service.address;
    let fleet = Fleet::start(&folder, upstream, Placement::GATEWAY)?;
    let nginx = peers::nginx(&folder, bench.web(), upstream)?;
    let haproxy = peers::haproxy(&folder, bench.web(), upstream)?;
    let envoy = peers::envoy(&folder, bench.web(), upstream)?;
    let two = peers::nginx_pair(&folder, bench.certificates(), bench.web(), upstream)?;
    let floors = floors::two(bench, &folder, upstream, Wire::Mesh)?;
    let between = "floor, HTTP/2 and mutual TLS to a second";
    let contenders = [
        contender::peer(bench, "nginx", &nginx, path),
        contender::peer(bench, "haproxy", &haproxy, path),
        contender::peer(bench, "envoy", &envoy, path),
        contender::behind_another(bench, "nginx, mutual TLS to a second nginx", &two, path),
        contender::behind_another(bench, between, &floors, path),
        contender::at_gateway(&fleet, format!("testudo gateway: {what}"), path)?,
    ];
    Ok(Comparison {
        title: format!("gateway, {what}, {bytes} bytes; ratio to nginx without checks"),
        series: bench.rounds(&contenders, amount, &fleet.processes())?,
        reference: 0,
        detail: Detail::Cost,
    })
}

fn setting(scenario: Scenario, amount: Amount) -> Setting {
    let bare = Setting {
        what: "TLS, no user",
        path: "/open",
        amount,
        bytes: ANSWER_BYTES,
    };
    let checks = Setting {
        what: "token, both legs, limits, record",
        path: "/checked",
        ..bare
    };
    match scenario {
        Scenario::Gateway16k => Setting {
            bytes: LONG_BYTES,
            ..bare
        },
        Scenario::GatewayChecks => checks,
        Scenario::Gateway1000 => Setting {
            what: "all checks, 1,000 connections",
            amount: Amount {
                connections: MANY,
                ..amount
            },
            ..checks
        },
        Scenario::GatewayPaced => Setting {
            what: "all checks, 4,000 requests/s",
            amount: Amount {
                rate: Some(PACE),
                ..amount
            },
            ..checks
        },
        Scenario::Handshakes => Setting {
            what: "a handshake each, no user",
            amount: Amount {
                fresh: true,
                ..amount
            },
            ..bare
        },
        _ => bare,
    }
}
