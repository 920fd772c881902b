//! What is compared with what.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    Outcome, Plan, calls,
    certificates::{Certificates, Identity},
    checks, floors, gateway, growth, identity, latency,
    measure::{self, Amount, Contender, Sample, Series},
    peers::Peer,
    process::LOAD_CORE,
    resident, uncached, upstream,
};

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// TLS in front of a service without users; Testudo still decides and records, and speaks mTLS to a sidecar
    GatewayBare,
    /// The same with answers of 16 KiB
    #[value(name = "gateway-16k")]
    Gateway16k,
    /// Access token, both legs, limits and record, warm; the peers check nothing
    GatewayChecks,
    /// The same with 1,000 connections
    #[value(name = "gateway-1000")]
    Gateway1000,
    /// The same, each request with an access token that was never seen before
    GatewayUncached,
    /// The gateway without a user, and with one check more in each step
    Checks,
    /// All checks, everybody at 4,000 requests a second: what a request costs and takes when nobody is busy
    GatewayPaced,
    /// All checks at rates that leave both cores idle half of the time: how long a request takes
    Latency,
    /// A new connection with a full handshake for each request
    Handshakes,
    /// nginx, the libraries alone, and the gateway, each with and without a second proxy behind it
    Floor,
    /// Plain HTTP in, mutual TLS between two sidecars, plain HTTP out; Envoy with RBAC
    Pair,
    /// Resident memory of a sidecar that knows 1,000 services, idle and at 1,000 requests a second; Envoy with one
    SidecarMemory,
    /// 1,000 calls at once on all cores with the load
    #[value(name = "calls-1000")]
    Calls1000,
    /// 10,000 calls at once on all cores with the load
    #[value(name = "calls-10000")]
    Calls10000,
    /// The gateway's checks with 10 to 10,000 policies
    Policies,
    /// The same with 10 to 10,000 routes of the called service
    Routes,
    /// The same with 10 to 10,000 services
    Services,
    /// Tokens made, renewed and told about by the identity provider
    Identity,
}

impl Scenario {
    /// All of them.
    pub(crate) const ALL: &'static [Self] = &[
        Self::GatewayBare,
        Self::Gateway16k,
        Self::GatewayChecks,
        Self::Gateway1000,
        Self::GatewayUncached,
        Self::Checks,
        Self::GatewayPaced,
        Self::Latency,
        Self::Handshakes,
        Self::Floor,
        Self::Pair,
        Self::SidecarMemory,
        Self::Calls1000,
        Self::Calls10000,
        Self::Policies,
        Self::Routes,
        Self::Services,
        Self::Identity,
    ];
}

/// What came of a scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    /// What was compared.
    pub(crate) title: String,
    /// The contenders; ratios are to the one named by `reference`.
    pub(crate) series: Vec<Series>,
    /// Index of the reference.
    pub(crate) reference: usize,
    /// What else is told of each contender.
    pub(crate) detail: Detail,
}

/// What a comparison is about beside costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Detail {
    /// Nothing else.
    Cost,
    /// Each contender is the one before it with something more: what that adds.
    Steps,
    /// Resident memory, and nothing but that.
    Memory,
    /// How busy the cores are, and how long threads that could run wait for one.
    Waiting,
}

/// The parts every scenario uses.
pub(crate) struct Bench {
    folder: PathBuf,
    plan: Plan,
    certificates: Certificates,
    web: Identity,
    upstream: Peer,
}

impl Bench {
    /// Starts the upstream and makes certificates.
    pub(crate) fn start(folder: &Path, plan: &Plan) -> Outcome<Self> {
        let certificates = Certificates::create(folder)?;
        Ok(Self {
            upstream: upstream::start(folder, upstream::ANSWER_BYTES)?,
            folder: folder.to_owned(),
            plan: plan.clone(),
            web: certificates.web()?,
            certificates,
        })
    }

    /// Where the upstream listens.
    pub(crate) const fn upstream(&self) -> SocketAddr {
        self.upstream.address
    }

    /// Certificates for peers.
    pub(crate) const fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// What peers show over HTTPS.
    pub(crate) const fn web(&self) -> &Identity {
        &self.web
    }

    /// Measures one scenario.
    pub(crate) fn run(&self, scenario: Scenario) -> Outcome<Vec<Comparison>> {
        let comparison = match scenario {
            Scenario::GatewayBare
            | Scenario::Gateway16k
            | Scenario::GatewayChecks
            | Scenario::Gateway1000
            | Scenario::GatewayPaced
            | Scenario::Handshakes => gateway::compare(self, scenario),
            Scenario::GatewayUncached => uncached::compare(self),
            Scenario::Checks => checks::compare(self),
            Scenario::Latency => return latency::compare(self),
            Scenario::Floor => floors::at_gateway(self),
            Scenario::Pair => floors::between_sidecars(self),
            Scenario::SidecarMemory => resident::compare(self),
            Scenario::Calls1000 => calls::compare(self, 1_000),
            Scenario::Calls10000 => calls::compare(self, 10_000),
            Scenario::Policies => growth::compare(self, "policies", |extra| &mut extra.policies),
            Scenario::Routes => growth::compare(self, "routes", |extra| &mut extra.routes),
            Scenario::Identity => return identity::compare(self),
            Scenario::Services => growth::compare(self, "services", |extra| &mut extra.services),
        };
        Ok(vec![comparison?])
    }

    /// Measures each contender once a round.
    pub(crate) fn rounds(
        &self,
        contenders: &[Contender],
        amount: Amount,
        processes: &[u32],
    ) -> Outcome<Vec<Series>> {
        let names = contenders.iter().map(|contender| contender.name.clone());
        let mut series: Vec<Series> = names.map(Series::new).collect();
        for _ in 0..self.plan.rounds {
            for (contender, series) in contenders.iter().zip(&mut series) {
                let sample = self.sample(contender, amount, processes)?;
                series.samples.push(sample);
            }
        }
        Ok(series)
    }

    /// Measures what `prepare` makes of each of `cases`, all of them once a round, so that a drift of the machine is in all
    /// of them.
    pub(crate) fn in_turn<C>(
        &self,
        cases: &[C],
        amount: Amount,
        processes: &[u32],
        mut prepare: impl FnMut(&C) -> Outcome<Contender>,
    ) -> Outcome<Vec<Series>> {
        let mut series: Vec<Series> = Vec::new();
        for round in 0..self.plan.rounds {
            for (index, case) in cases.iter().enumerate() {
                let contender = prepare(case)?;
                let sample = self.sample(&contender, amount, processes)?;
                if round == 0 {
                    series.push(Series::new(contender.name));
                }
                let known = series.get_mut(index).ok_or("a case without a series")?;
                known.samples.push(sample);
            }
        }
        Ok(series)
    }

    /// Measures `contender` once, when `processes` are idle.
    pub(crate) fn sample(
        &self,
        contender: &Contender,
        amount: Amount,
        processes: &[u32],
    ) -> Outcome<Sample> {
        measure::settle(processes)?;
        measure::measure(contender, amount, &self.folder.join("load.log"))
    }

    /// Times that each contender is measured.
    pub(crate) const fn rounds_of(&self) -> usize {
        self.plan.rounds
    }

    /// As much as the plan says.
    pub(crate) const fn amount(&self) -> Amount {
        Amount {
            connections: self.plan.connections,
            seconds: self.plan.seconds,
            rate: self.plan.rate,
            fresh: false,
            addresses: 1,
            core: LOAD_CORE,
        }
    }

    /// A folder of its own for a comparison.
    pub(crate) fn subfolder(&self, name: &str) -> Outcome<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}
