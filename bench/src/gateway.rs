//! The gateway beside peers that check nothing.

use crate::{
    Outcome, contender,
    fleet::{Fleet, Placement},
    measure::Amount,
    peers,
    scenario::{Bench, Comparison, Scenario},
};

/// Requests a second in `gateway-paced`: about half of what the slowest contender can do.
const PACE: u32 = 4_000;

/// How requests come, and what is asked of them.
struct Setting {
    what: &'static str,
    path: &'static str,
    amount: Amount,
}

/// Measures `scenario`, which is about the gateway.
pub(crate) fn compare(bench: &Bench, scenario: Scenario) -> Outcome<Comparison> {
    let Setting { what, path, amount } = setting(scenario, bench.amount());
    let folder = bench.subfolder(&format!("{scenario:?}"))?;
    let upstream = bench.upstream();
    let fleet = Fleet::start(&folder, upstream, Placement::GATEWAY)?;
    let nginx = peers::nginx(&folder, bench.web(), upstream)?;
    let haproxy = peers::haproxy(&folder, bench.web(), upstream)?;
    let envoy = peers::envoy(&folder, bench.web(), upstream)?;
    let two = peers::nginx_pair(&folder, bench.certificates(), bench.web(), upstream)?;
    let contenders = [
        contender::peer(bench, "nginx", &nginx, path),
        contender::peer(bench, "haproxy", &haproxy, path),
        contender::peer(bench, "envoy", &envoy, path),
        contender::behind_another(bench, "nginx, mutual TLS to a second nginx", &two, path),
        contender::at_gateway(&fleet, format!("testudo gateway: {what}"), path)?,
    ];
    Ok(Comparison {
        title: format!("gateway, {what}, 100 bytes; ratio to nginx without checks"),
        series: bench.rounds(&contenders, amount, &fleet.processes())?,
        reference: 0,
    })
}

fn setting(scenario: Scenario, amount: Amount) -> Setting {
    let bare = Setting {
        what: "TLS, no user",
        path: "/open",
        amount,
    };
    let checks = Setting {
        what: "token, both legs, limits, record",
        path: "/checked",
        amount,
    };
    match scenario {
        Scenario::GatewayChecks => checks,
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
