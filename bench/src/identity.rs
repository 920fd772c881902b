//! What tokens cost the identity provider: made, renewed, and told about. Every one of them is recorded, and what must last
//! is on disk before it is answered.

use std::{fs, path::PathBuf, time::Instant};

use crate::{
    Outcome,
    fleet::{Fleet, Placement, SECRET},
    load::Tally,
    measure::{Brings, Contender, Part, Sample, Series, Target, settle},
    process::{anonymous_kilobytes, cpu_micros, resident_kilobytes},
    scenario::{Bench, Comparison, Detail},
    tokens::{Logins, address_of},
};

/// Refreshes that are measured at once.
const REFRESHES: usize = 4_000;

/// Client credentials, introspection, and refreshing, by a client with a secret over kept connections.
pub(crate) fn compare(bench: &Bench) -> Outcome<Comparison> {
    let folder = bench.subfolder("identity")?;
    let fleet = Fleet::start(&folder, bench.upstream(), Placement::SERVER)?;
    let token = fs::read_to_string(fleet.token()?)?;
    let form = |name: &str, fields: &str| -> Outcome<PathBuf> {
        let file = folder.join(name);
        fs::write(
            &file,
            format!("client_id=backend&client_secret={SECRET}&{fields}"),
        )?;
        Ok(file)
    };
    let credentials = form("credentials", "grant_type=client_credentials")?;
    let introspection = form("introspection", &format!("token={}", token.trim()))?;
    let contenders = [
        at_provider(&fleet, "client credentials", "/oauth2/token", credentials)?,
        at_provider(&fleet, "introspection", "/oauth2/introspect", introspection)?,
    ];
    let mut series = bench.rounds(&contenders, bench.amount(), &fleet.processes())?;
    let mut refreshing = Series::new("refresh, 8 sessions at once".to_owned());
    let mut logins = Logins::begin(&fleet)?;
    for _ in 0..bench.rounds_of() {
        settle(&fleet.processes())?;
        refreshing.samples.push(refreshes(&fleet, &mut logins)?);
    }
    series.push(refreshing);
    Ok(Comparison {
        title: "identity provider; ratio to client credentials".to_owned(),
        series,
        reference: 0,
        detail: Detail::Cost,
    })
}

fn at_provider(fleet: &Fleet, name: &str, path: &'static str, form: PathBuf) -> Outcome<Contender> {
    Ok(Contender {
        name: name.to_owned(),
        target: Target {
            address: address_of(&fleet.provider()?)?,
            host: "localhost",
            path,
            ca: Some(fleet.ca.clone()),
            brings: Brings::Form(form),
        },
        parts: vec![Part {
            name: "control plane",
            process: fleet.server.id(),
            counts: None,
            is_counted: true,
        }],
    })
}

fn refreshes(fleet: &Fleet, logins: &mut Logins) -> Outcome<Sample> {
    let server = fleet.server.id();
    let (before, began) = (cpu_micros(server)?, Instant::now());
    let count = logins.mint(REFRESHES)?.len();
    let (cpu, seconds) = (cpu_micros(server)? - before, began.elapsed().as_secs_f64());
    Ok(Sample {
        tally: Tally {
            requests: count as u64,
            seconds,
            ..Tally::default()
        },
        cpu: cpu / count as f64,
        parts: Vec::new(),
        waits: Vec::new(),
        busy: Vec::new(),
        resident: resident_kilobytes(server)?,
        anonymous: anonymous_kilobytes(server)?,
    })
}
