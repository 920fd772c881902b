//! What each check costs: the gateway with one more in each step.

use crate::{
    Outcome,
    contender::at_gateway,
    declared::Extra,
    fleet::{Fleet, Placement},
    measure::Brings,
    scenario::{Bench, Comparison, Detail},
};

/// Other policies in the last step.
const POLICIES: usize = 1_000;

/// A step, which has all that those before it have.
struct Step {
    name: &'static str,
    path: &'static str,
    has_token: bool,
    extra: Extra,
}

/// The steps in one fleet, whose file changes between them: a proxy cannot be told to leave out a check, but a fleet need not
/// ask for it.
pub(crate) fn compare(bench: &Bench) -> Outcome<Comparison> {
    let folder = bench.subfolder("checks")?;
    let fleet = Fleet::start(&folder, bench.upstream(), Placement::GATEWAY)?;
    let taken = |step: &Step| {
        fleet.apply(step.extra)?;
        let mut contender = at_gateway(&fleet, step.name.to_owned(), step.path)?;
        if step.has_token {
            contender.target.brings = Brings::Token(fleet.token()?);
        }
        Ok(contender)
    };
    Ok(Comparison {
        title: "gateway, 100 bytes, with more and more checks, warm; ratio to the first".to_owned(),
        series: bench.in_turn(&steps(), bench.amount(), &fleet.processes(), taken)?,
        reference: 0,
        detail: Detail::Steps,
    })
}

fn steps() -> [Step; 5] {
    let bare = Extra {
        limits: false,
        ..Extra::START
    };
    let limited = Extra {
        limits: true,
        ..bare
    };
    let step = |name, path, has_token, extra| Step {
        name,
        path,
        has_token,
        extra,
    };
    [
        step("framing, service leg, record", "/open", false, bare),
        step("and an access token", "/open", true, bare),
        step("and the user leg", "/checked", true, bare),
        step(
            "and limits: address, user, service",
            "/checked",
            true,
            limited,
        ),
        step(
            "and 1,000 other policies",
            "/checked",
            true,
            Extra {
                policies: POLICIES,
                ..limited
            },
        ),
    ]
}
