//! How long a request takes when there is room: at rates that leave both cores idle half of the time.

use crate::{
    Outcome, contender,
    fleet::{Fleet, Placement},
    floor::{self, Gap, Wire},
    measure::Amount,
    peers,
    process::{LOAD_CORE, PROXY_CORE},
    scenario::{Bench, Comparison, Detail},
};

/// Requests a second of everybody. At the last, the core that Testudo's sidecar shares with generator and upstream is about
/// half busy.
const RATES: [u32; 3] = [500, 1_000, 2_000];

/// The gateway with all checks beside nginx, each with a second proxy behind it. The control plane runs only when nobody else
/// wants its core.
pub(crate) fn compare(bench: &Bench) -> Outcome<Vec<Comparison>> {
    let folder = bench.subfolder("latency")?;
    let (certificates, web, upstream) = (bench.certificates(), bench.web(), bench.upstream());
    let fleet = Fleet::start(&folder, upstream, Placement::APART)?;
    let nginx = peers::nginx(&folder, web, upstream)?;
    let two_nginx = peers::nginx_pair(&folder, certificates, web, upstream)?;
    let gap = Gap {
        from: Wire::Tls,
        between: Wire::Mesh,
        cores: (PROXY_CORE, LOAD_CORE),
        is_counted: false,
    };
    let two_floors = floor::pair(&folder, certificates, web, upstream, gap)?;
    let path = "/checked";
    let contenders = [
        contender::peer(bench, "nginx", &nginx, path),
        contender::behind_another(bench, "nginx, mutual TLS to a second", &two_nginx, path),
        contender::behind_another(
            bench,
            "floor, HTTP/2 and mutual TLS to a second",
            &two_floors,
            path,
        ),
        contender::at_gateway(&fleet, "testudo gateway: all checks".to_owned(), path)?,
    ];
    let rates = bench
        .amount()
        .rate
        .map_or(RATES.to_vec(), |rate| vec![rate]);
    let at = |rate: u32| {
        let amount = Amount {
            rate: Some(rate),
            ..bench.amount()
        };
        Ok(Comparison {
            title: format!("gateway, all checks, {rate} requests/s; ratio to nginx without checks"),
            series: bench.rounds(&contenders, amount, &fleet.processes())?,
            reference: 0,
            detail: Detail::Waiting,
        })
    };
    rates.into_iter().map(at).collect()
}
