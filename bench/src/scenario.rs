//! What is compared with what.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    Outcome, Plan,
    certificates::{Certificates, Identity},
    contender::{at_gateway, between_sidecars},
    fleet::{Extra, Fleet, Placement},
    floors, gateway,
    measure::{self, Amount, Contender, Sample, Series},
    peers::Peer,
    process::LOAD_CORE,
    upstream,
};

/// Callers at once in `calls-1000`.
const CALLERS: usize = 1_000;
/// How much there is of what grows, in `policies`, `routes` and `services`.
const GROWTH: [usize; 4] = [10, 100, 1_000, 10_000];

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// TLS in front of a service without users; Testudo still decides and records, and speaks mTLS to a sidecar
    GatewayBare,
    /// Access token, both legs, limits and record, warm; the peers check nothing
    GatewayChecks,
    /// The same, everybody at 4,000 requests a second: what a request costs and takes when nobody is busy
    GatewayPaced,
    /// A new connection with a full handshake for each request
    Handshakes,
    /// nginx, the libraries alone, and the gateway, each with and without a second proxy behind it
    Floor,
    /// Plain HTTP in, mutual TLS between two sidecars, plain HTTP out; Envoy with RBAC
    Pair,
    /// 1,000 calls at once on all cores with the load
    #[value(name = "calls-1000")]
    Calls1000,
    /// The gateway's checks with 10 to 10,000 policies
    Policies,
    /// The same with 10 to 10,000 routes of the called service
    Routes,
    /// The same with 10 to 10,000 services
    Services,
}

impl Scenario {
    /// All of them.
    pub(crate) const ALL: &'static [Self] = &[
        Self::GatewayBare,
        Self::GatewayChecks,
        Self::GatewayPaced,
        Self::Handshakes,
        Self::Floor,
        Self::Pair,
        Self::Calls1000,
        Self::Policies,
        Self::Routes,
        Self::Services,
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
    pub(crate) fn run(&mut self, scenario: Scenario) -> Outcome<Comparison> {
        match scenario {
            Scenario::GatewayBare
            | Scenario::GatewayChecks
            | Scenario::GatewayPaced
            | Scenario::Handshakes => gateway::compare(self, scenario),
            Scenario::Floor => floors::at_gateway(self),
            Scenario::Pair => floors::between_sidecars(self),
            Scenario::Calls1000 => self.calls(),
            Scenario::Policies => self.growth("policies", |extra| &mut extra.policies),
            Scenario::Routes => self.growth("routes", |extra| &mut extra.routes),
            Scenario::Services => self.growth("services", |extra| &mut extra.services),
        }
    }

    fn calls(&self) -> Outcome<Comparison> {
        let folder = self.subfolder("calls")?;
        let fleet = Fleet::start(&folder, self.upstream(), Placement::ANYWHERE)?;
        let amount = Amount {
            connections: CALLERS,
            core: None,
            ..self.amount()
        };
        let gateway = at_gateway(&fleet, "gateway, sidecar, service".to_owned(), "/checked")?;
        let mut pair = between_sidecars(&fleet);
        pair.name = "sidecar, sidecar, service".to_owned();
        Ok(Comparison {
            title: format!("{CALLERS} calls at once, nothing pinned"),
            series: self.rounds(&[pair, gateway], amount, &fleet.processes())?,
            reference: 0,
        })
    }

    /// The same request while there is more and more that it is not about. Each round goes through all sizes, so
    /// that a drift of the machine is in all of them.
    fn growth(
        &self,
        what: &str,
        growing: impl Fn(&mut Extra) -> &mut usize,
    ) -> Outcome<Comparison> {
        let folder = self.subfolder(what)?;
        let fleet = Fleet::start(&folder, self.upstream(), Placement::GATEWAY)?;
        let mut series: Vec<Series> = GROWTH
            .map(|count| Series {
                name: format!("{count} {what}"),
                samples: Vec::new(),
            })
            .into();
        for _ in 0..self.plan.rounds {
            for (count, series) in GROWTH.into_iter().zip(&mut series) {
                let mut extra = Extra::START;
                *growing(&mut extra) = count;
                fleet.apply(extra)?;
                let contender = at_gateway(&fleet, String::new(), "/checked")?;
                series
                    .samples
                    .push(self.sample(&contender, self.amount(), &fleet.processes())?);
            }
        }
        Ok(Comparison {
            title: format!("gateway with all checks by number of {what}; ratio to the fewest"),
            series,
            reference: 0,
        })
    }

    /// Measures each contender once a round.
    pub(crate) fn rounds(
        &self,
        contenders: &[Contender],
        amount: Amount,
        processes: &[u32],
    ) -> Outcome<Vec<Series>> {
        let mut series: Vec<Series> = contenders
            .iter()
            .map(|contender| Series {
                name: contender.name.clone(),
                samples: Vec::new(),
            })
            .collect();
        for _ in 0..self.plan.rounds {
            for (contender, series) in contenders.iter().zip(&mut series) {
                series
                    .samples
                    .push(self.sample(contender, amount, processes)?);
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

    /// As much as the plan says, as fast as it is answered.
    pub(crate) const fn amount(&self) -> Amount {
        Amount {
            connections: self.plan.connections,
            seconds: self.plan.seconds,
            rate: None,
            fresh: false,
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
