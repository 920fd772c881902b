//! The gateway when nothing is cached: each request shows an access token that was never seen before.

use std::fs;

use crate::{
    Outcome,
    contender::{self, at_gateway},
    fleet::{Fleet, Placement},
    measure::{Amount, Brings, WARM_UP_SECONDS},
    peers,
    scenario::{Bench, Comparison, Detail},
    tokens::Logins,
};

/// The gateway looks at 200 unknown tokens a second of one address.
const ADDRESSES: u8 = 100;
/// Tokens for each second, more than are needed: a check of a signature alone takes longer.
const TOKENS_A_SECOND: f64 = 7_000.0;

#[derive(Clone, Copy)]
enum Case {
    Nginx,
    Warm,
    Uncached,
}

/// nginx without checks, all checks warm, and all checks with nothing cached.
pub(crate) fn compare(bench: &Bench) -> Outcome<Comparison> {
    let folder = bench.subfolder("uncached")?;
    let fleet = Fleet::start(&folder, bench.upstream(), Placement::GATEWAY)?;
    let nginx = peers::nginx(&folder, bench.web(), bench.upstream())?;
    let mut logins = Logins::begin(&fleet)?;
    let amount = Amount {
        addresses: ADDRESSES,
        ..bench.amount()
    };
    let a_second = amount.rate.map_or(TOKENS_A_SECOND, f64::from);
    let needed =
        ((WARM_UP_SECONDS + amount.seconds as f64) * a_second) as usize + amount.connections;
    let prepare = |case: &Case| match case {
        Case::Nginx => Ok(contender::peer(bench, "nginx", &nginx, "/checked")),
        Case::Warm => at_gateway(
            &fleet,
            "testudo gateway: all checks, warm".to_owned(),
            "/checked",
        ),
        Case::Uncached => {
            let file = folder.join("tokens");
            fs::write(&file, logins.mint(needed)?.join("\n"))?;
            let name = "testudo gateway: all checks, each token new";
            let mut contender = at_gateway(&fleet, name.to_owned(), "/checked")?;
            contender.target.brings = Brings::Tokens(file);
            Ok(contender)
        }
    };
    let cases = [Case::Nginx, Case::Warm, Case::Uncached];
    Ok(Comparison {
        title: "gateway with nothing cached, 100 bytes; ratio to nginx without checks".to_owned(),
        series: bench.in_turn(&cases, amount, &fleet.processes(), prepare)?,
        reference: 0,
        detail: Detail::Cost,
    })
}
