//! What is compared with what.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    Outcome, Plan,
    certificates::{Certificates, Identity},
    fleet::{Extra, Fleet, Placement, Proxy},
    measure::{self, Amount, Contender, Part, Sample, Series, Target},
    peers::{self, Peer},
    process::{LOAD_CORE, Process},
};

/// Requests a second in `gateway-paced`: about half of what the slowest contender can do.
const PACE: u32 = 4_000;
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
    upstream: SocketAddr,
    _upstream: Process,
}

impl Bench {
    /// Starts the upstream and makes certificates.
    pub(crate) fn start(folder: &Path, plan: &Plan) -> Outcome<Self> {
        let certificates = Certificates::create(folder)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("upstream");
        let mut process = Process::start(&command, LOAD_CORE, &folder.join("upstream.log"))?;
        let port = process.lines()?.next().ok_or("no upstream")??.parse()?;
        Ok(Self {
            folder: folder.to_owned(),
            plan: plan.clone(),
            web: certificates.web()?,
            certificates,
            upstream: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            _upstream: process,
        })
    }

    /// Where the upstream listens.
    pub(crate) const fn upstream(&self) -> SocketAddr {
        self.upstream
    }

    /// What peers show over HTTPS.
    pub(crate) const fn web(&self) -> &Identity {
        &self.web
    }

    /// Measures one scenario.
    pub(crate) fn run(&mut self, scenario: Scenario) -> Outcome<Comparison> {
        match scenario {
            Scenario::GatewayBare => self.gateway(scenario, "TLS, no user"),
            Scenario::GatewayChecks => self.gateway(scenario, "token, both legs, limits, record"),
            Scenario::GatewayPaced => self.gateway(scenario, "all checks, 4,000 requests/s"),
            Scenario::Handshakes => self.gateway(scenario, "a handshake each, no user"),
            Scenario::Pair => self.pair(),
            Scenario::Calls1000 => self.calls(),
            Scenario::Policies => self.growth("policies", |extra| &mut extra.policies),
            Scenario::Routes => self.growth("routes", |extra| &mut extra.routes),
            Scenario::Services => self.growth("services", |extra| &mut extra.services),
        }
    }

    fn gateway(&self, scenario: Scenario, what: &str) -> Outcome<Comparison> {
        let folder = self.subfolder(&format!("{scenario:?}"))?;
        let path = match scenario {
            Scenario::GatewayChecks | Scenario::GatewayPaced => "/checked",
            _ => "/open",
        };
        let amount = Amount {
            rate: (scenario == Scenario::GatewayPaced).then_some(PACE),
            fresh: scenario == Scenario::Handshakes,
            ..self.amount()
        };
        let fleet = Fleet::start(&folder, self.upstream, Placement::GATEWAY)?;
        let nginx = peers::nginx(&folder, &self.web, self.upstream)?;
        let haproxy = peers::haproxy(&folder, &self.web, self.upstream)?;
        let envoy = peers::envoy(&folder, &self.web, self.upstream)?;
        let (outer, inner) =
            peers::nginx_pair(&folder, &self.certificates, &self.web, self.upstream)?;
        let mut nginx_pair = self.peer("outer", &outer, path);
        "nginx, mutual TLS to a second nginx".clone_into(&mut nginx_pair.name);
        nginx_pair.parts.push(part("inner", &inner.process, false));
        let contenders = vec![
            self.peer("nginx", &nginx, path),
            self.peer("haproxy", &haproxy, path),
            self.peer("envoy", &envoy, path),
            nginx_pair,
            at_gateway(&fleet, format!("testudo gateway: {what}"), path)?,
        ];
        Ok(Comparison {
            title: format!("gateway, {what}, 100 bytes; ratio to nginx without checks"),
            series: self.rounds(&contenders, amount, &fleet.processes())?,
            reference: 0,
        })
    }

    fn pair(&self) -> Outcome<Comparison> {
        let folder = self.subfolder("pair")?;
        let fleet = Fleet::start(&folder, self.upstream, Placement::SIDECARS)?;
        let (outbound, inbound) = peers::envoy_pair(&folder, &self.certificates, self.upstream)?;
        let envoy = Contender {
            name: "envoy pair: mTLS, RBAC".to_owned(),
            target: Target {
                address: outbound.address,
                host: "echo",
                path: "/open",
                ca: None,
                token: None,
            },
            parts: vec![
                part("outbound", &outbound.process, true),
                part("inbound", &inbound.process, true),
            ],
        };
        let contenders = [envoy, between_sidecars(&fleet)];
        Ok(Comparison {
            title: "sidecar pair over mTLS, 100 bytes; ratio to Envoy's pair".to_owned(),
            series: self.rounds(&contenders, self.amount(), &fleet.processes())?,
            reference: 0,
        })
    }

    fn calls(&self) -> Outcome<Comparison> {
        let folder = self.subfolder("calls")?;
        let fleet = Fleet::start(&folder, self.upstream, Placement::ANYWHERE)?;
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
        let fleet = Fleet::start(&folder, self.upstream, Placement::GATEWAY)?;
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
    fn rounds(
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

    fn sample(&self, contender: &Contender, amount: Amount, processes: &[u32]) -> Outcome<Sample> {
        measure::settle(processes)?;
        measure::measure(contender, amount, &self.folder.join("load.log"))
    }

    const fn amount(&self) -> Amount {
        Amount {
            connections: self.plan.connections,
            seconds: self.plan.seconds,
            rate: None,
            fresh: false,
            core: LOAD_CORE,
        }
    }

    fn peer(&self, name: &'static str, peer: &Peer, path: &'static str) -> Contender {
        Contender {
            name: name.to_owned(),
            target: self.target(peer, path),
            parts: vec![part(name, &peer.process, true)],
        }
    }

    /// `path` behind a peer.
    pub(crate) fn target(&self, peer: &Peer, path: &'static str) -> Target {
        Target {
            address: peer.address,
            host: "localhost",
            path,
            ca: Some(self.certificates.root()),
            token: None,
        }
    }

    /// A folder of its own for a comparison.
    pub(crate) fn subfolder(&self, name: &str) -> Outcome<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

/// Load on the gateway. What the sidecar and the control plane use is told beside it.
pub(crate) fn at_gateway(fleet: &Fleet, name: String, path: &'static str) -> Outcome<Contender> {
    let wants_token = path == "/checked";
    Ok(Contender {
        name,
        target: Target {
            address: fleet.gateway.address,
            host: "localhost",
            path,
            ca: Some(fleet.ca.clone()),
            token: wants_token.then(|| fleet.token()).transpose()?,
        },
        parts: vec![
            proxy("gateway", &fleet.gateway, true),
            proxy("sidecar", &fleet.called, false),
            part("control plane", &fleet.server, false),
        ],
    })
}

/// Load on the outbound side of the calling service's sidecar.
pub(crate) fn between_sidecars(fleet: &Fleet) -> Contender {
    Contender {
        name: "testudo pair: mTLS, both decide and record".to_owned(),
        target: Target {
            address: fleet.caller.address,
            host: "echo",
            path: "/open",
            ca: None,
            token: None,
        },
        parts: vec![
            proxy("outbound", &fleet.caller, true),
            proxy("inbound", &fleet.called, true),
            part("control plane", &fleet.server, false),
        ],
    }
}

fn part(name: &'static str, process: &Process, is_counted: bool) -> Part {
    Part {
        name,
        process: process.id(),
        counts: None,
        is_counted,
    }
}

fn proxy(name: &'static str, proxy: &Proxy, is_counted: bool) -> Part {
    Part {
        counts: proxy.counts.clone(),
        ..part(name, &proxy.process, is_counted)
    }
}
