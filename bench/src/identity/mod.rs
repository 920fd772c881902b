//! What tokens cost the identity provider: made, renewed, and told about. Every one of them is recorded, and what must last
//! is on disk before it is answered; npm's oidc-provider beside it records nothing and keeps all in memory.

mod peer;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{
    Outcome,
    fleet::{Fleet, Placement, SECRET},
    load::Tally,
    measure::{Amount, Brings, Contender, Part, Sample, Series, Target, settle},
    process::{Process, anonymous_kilobytes, cpu_micros, resident_kilobytes},
    scenario::{Bench, Comparison, Detail},
    tokens::{Logins, address_of},
};

use self::peer::Peer;

/// Refreshes that are measured at once.
const REFRESHES: usize = 4_000;
const PEER: &str = "oidc-provider";

/// Client credentials, introspection, and refreshing, by a client with a secret over kept connections; client credentials
/// also over new ones.
pub(crate) fn compare(bench: &Bench) -> Outcome<Vec<Comparison>> {
    let folder = bench.subfolder("identity")?;
    let fleet = Fleet::start(&folder, bench.upstream(), Placement::SERVER)?;
    let mut peer = Peer::start(bench, &folder)?;
    let endpoints = Endpoints {
        folder: &folder,
        bench,
        fleet: &fleet,
        peer: peer.as_ref(),
    };
    let credentials = "grant_type=client_credentials".to_owned();
    let kept = endpoints.contenders(
        ["/oauth2/token", "/token"],
        [&credentials, &credentials],
        "credentials",
    )?;
    let token = fs::read_to_string(fleet.token()?)?;
    let asked = |token: &str| format!("token={}", token.trim());
    let told = peer.as_ref().map(|peer| peer.introspected.as_str());
    let introspection = endpoints.contenders(
        ["/oauth2/introspect", "/token/introspection"],
        [&asked(&token), &asked(told.unwrap_or_default())],
        "introspection",
    )?;
    let measured = |title: &str, contenders: &[Contender], amount| {
        Outcome::Ok(Comparison {
            title: format!("identity provider: {title}"),
            series: bench.rounds(contenders, amount, &fleet.processes())?,
            reference: 0,
            detail: Detail::Cost,
        })
    };
    let amount = bench.amount();
    let fresh = Amount {
        fresh: true,
        ..amount
    };
    Ok(vec![
        measured("client credentials", &kept, amount)?,
        measured("client credentials, a handshake each", &kept, fresh)?,
        measured("introspection", &introspection, amount)?,
        refreshing(bench, &fleet, peer.as_mut())?,
    ])
}

/// Where the contenders are asked.
struct Endpoints<'b> {
    folder: &'b Path,
    bench: &'b Bench,
    fleet: &'b Fleet,
    peer: Option<&'b Peer>,
}

impl Endpoints<'_> {
    /// Testudo and the peer, asked at `paths` with `fields`.
    fn contenders(
        &self,
        paths: [&'static str; 2],
        fields: [&str; 2],
        name: &str,
    ) -> Outcome<Vec<Contender>> {
        let ([path, peer_path], [own, others]) = (paths, fields);
        let address = address_of(&self.fleet.provider()?)?;
        let target = |address, path, ca, form| Target {
            address,
            host: "localhost",
            path,
            ca: Some(ca),
            brings: Brings::Form(form),
        };
        let form = self.form(name, own)?;
        let mut contenders = vec![Contender {
            name: "testudo".to_owned(),
            target: target(address, path, self.fleet.ca.clone(), form),
            parts: vec![part("control plane", &self.fleet.server)],
        }];
        if let Some(peer) = self.peer {
            let form = self.form(&format!("{name}-peer"), others)?;
            let ca = self.bench.certificates().root();
            contenders.push(Contender {
                name: PEER.to_owned(),
                target: target(peer.address, peer_path, ca, form),
                parts: vec![part(PEER, &peer.process)],
            });
        }
        Ok(contenders)
    }

    /// A file with a form of the service account.
    fn form(&self, name: &str, fields: &str) -> Outcome<PathBuf> {
        let file = self.folder.join(name);
        let form = format!("client_id=backend&client_secret={SECRET}&{fields}");
        fs::write(&file, form)?;
        Ok(file)
    }
}

fn part(name: &'static str, process: &Process) -> Part {
    Part {
        name,
        process: process.id(),
        counts: None,
        is_counted: true,
    }
}

/// Sessions that renew their tokens as fast as they are answered.
fn refreshing(bench: &Bench, fleet: &Fleet, peer: Option<&mut Peer>) -> Outcome<Comparison> {
    let mut all = vec![(
        Series::new("testudo".to_owned()),
        fleet.server.id(),
        Logins::begin(fleet)?,
    )];
    if let Some(peer) = peer {
        let logins = peer.logins(bench)?;
        all.push((Series::new(PEER.to_owned()), peer.process.id(), logins));
    }
    for _ in 0..bench.rounds_of() {
        for (series, process, logins) in &mut all {
            settle(&fleet.processes())?;
            series.samples.push(refreshes(*process, logins)?);
        }
    }
    Ok(Comparison {
        title: "identity provider: refresh, 8 sessions at once".to_owned(),
        series: all.into_iter().map(|(series, ..)| series).collect(),
        reference: 0,
        detail: Detail::Cost,
    })
}

fn refreshes(process: u32, logins: &mut Logins) -> Outcome<Sample> {
    let (before, began) = (cpu_micros(process)?, Instant::now());
    let count = logins.mint(REFRESHES)?.len();
    let (cpu, seconds) = (cpu_micros(process)? - before, began.elapsed().as_secs_f64());
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
        resident: resident_kilobytes(process)?,
        anonymous: anonymous_kilobytes(process)?,
    })
}
