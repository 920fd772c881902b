//! From the sections to a [`Fleet`]: everything that can be wrong with a file whose values are all readable.

use std::{collections::BTreeSet, path::PathBuf};

use testudo_model::{
    IpLists, RateLimit, Redacted, limits,
    snapshot::{GatewayRules, PolicyFile, ProxyProtocol, TransferRules},
};

use super::{
    Fleet, Listen, Observability, OutboundRules, PasswordRules, SeedCredential, directories,
    document::{Cursor, DeclaredNames, Place},
    file::{
        FleetFile, GatewaySection, IpSection, LimitSection, ListenSection, ObservabilitySection,
        OutboundSection, PasswordSection,
    },
    files::{FileError, Files},
    identity_providers, mail,
    network::Network,
    passkeys, people, ports,
    problem::{Problems, nearest},
    registration,
    secret::SecretReference,
    services, tenants, trusted_issuers,
};
use crate::{Environment, telemetry};

/// Largest secret file.
const MAX_SECRET_BYTES: usize = 4096;

/// Largest file with certificate authorities; those of systems have about 250 KB.
const MAX_CA_FILE_BYTES: usize = 1024 * 1024;

/// Whether the fleet can do without the secrets it refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Needed,
    Optional,
}

/// What the checks share.
pub(super) struct Context<'a, 's> {
    pub(super) names: &'a DeclaredNames,
    pub(super) problems: &'a mut Problems<'s>,
    pub(super) files: &'a mut Files,
    pub(super) environment: &'a Environment,
    pub(super) secrets: Secrets,
    /// Variables that secrets were read from.
    pub(super) variables: BTreeSet<String>,
}

/// Checks `file`, whose places are in `tree`. The result counts only if no error was reported.
pub(super) fn check(file: &FleetFile, tree: Cursor<'_>, context: &mut Context<'_, '_>) -> Fleet {
    let listen = listen(&file.listen);
    let sidecars = ports::assign(file, &listen, tree, context.problems);
    let services = services::check(file, tree, context);
    let directory = people::check(file, tree, context);
    let (policies, policy_tests) = policies(file, tree.key("policy").key("directory"), context);
    Fleet {
        trust_domain: file.trust_domain.clone(),
        runs: services::runs(file, tree, context),
        services,
        public_ports: file
            .services
            .iter()
            .filter_map(|(name, section)| Some((name.clone(), section.listen?.address())))
            .collect(),
        sidecars,
        tenants: tenants::check(file, tree, context),
        groups: file.groups.clone(),
        roles: file.roles.clone(),
        users: directory.users,
        service_accounts: directory.service_accounts,
        trusted_issuers: trusted_issuers::check(file, tree, context.problems),
        identity_providers: identity_providers::check(file, tree, context),
        directories: directories::check(file, tree, context),
        clients: directory.clients,
        policies,
        policy_tests,
        gateway: GatewayRules {
            ip: ip_lists(&file.gateway.ip),
            trusted_proxies: trusted_proxies(&file.gateway.trusted_proxies, tree, context.problems),
            proxy_protocol: proxy_protocol(&file.gateway, tree, context.problems),
            limits: rate_limits(
                &file.gateway.limit,
                tree.key("gateway").key("limit"),
                context.problems,
            ),
        },
        transfer: TransferRules {
            min_bytes_per_second: file.transfer.min_per_second.bytes(),
            grace_millis: file.transfer.grace.millis(),
        },
        tls_min: file.gateway.tls_min,
        listen,
        public_names: file.public_names.iter().map(ToString::to_string).collect(),
        data: context.files.resolve(&file.data.directory),
        observability: observability(
            &file.observability,
            tree.key("observability"),
            context.problems,
        ),
        outbound: outbound(&file.outbound, tree.key("outbound"), context),
        registration: registration::check(file, tree.key("registration"), context.problems),
        passkeys: passkeys::check(&file.passkeys, tree.key("passkeys"), context),
        passwords: passwords(&file.passwords, tree.key("passwords"), context.problems),
        mail: mail::check(file, tree.key("mail"), context),
    }
}

impl Context<'_, '_> {
    /// The text of a file with certificates, if one is named.
    pub(super) fn certificates(&mut self, path: Option<&str>, at: Cursor<'_>) -> Option<String> {
        let read = self.files.read(path?, MAX_CA_FILE_BYTES);
        let usable = read.map_err(|error| error.to_string()).and_then(|text| {
            match text.contains("-----BEGIN CERTIFICATE-----") {
                true => Ok(text),
                false => Err("it has no certificate in PEM form".to_owned()),
            }
        });
        match usable {
            Ok(text) => Some(text),
            Err(why) => {
                let message = "the certificate authorities cannot be used";
                self.problems
                    .error("fleet.ca_file", at.place(), message)
                    .why(why);
                None
            }
        }
    }

    /// Reports `name` if no `section` (`services`, `groups`, `roles`) declares it.
    pub(super) fn expect_declared(&mut self, section: &str, kind: &str, name: &str, place: &Place) {
        let known = self.names.of_section(section);
        if known.iter().any(|candidate| candidate == name) {
            return;
        }
        let help = match nearest(name, known.iter().map(String::as_str)) {
            Some(candidate) => format!("did you mean `{candidate}`?"),
            None if section == "roles" => {
                format!("add \"{name}\" to `roles` at the top of the file")
            }
            None if section == "groups" => format!("add `{name} = []` to `[groups]`"),
            None => format!("declare it under `[{section}.{name}]`"),
        };
        let message = format!("there is no {kind} `{name}`");
        self.problems
            .error("fleet.unknown_reference", place, message)
            .help(help);
    }

    /// Fetches the secret that `reference` names.
    pub(super) fn credential(
        &mut self,
        reference: Option<&SecretReference>,
        at: Cursor<'_>,
    ) -> SeedCredential {
        match reference {
            None => SeedCredential::Generated,
            Some(SecretReference::Hash(hash)) => {
                if !hash.starts_with("$argon2id$") {
                    self.problems
                        .error(
                            "fleet.secret_hash",
                            at.place(),
                            "this is not an argon2id hash in PHC form",
                        )
                        .help("it begins with `$argon2id$`");
                }
                SeedCredential::Hash(Redacted::new(hash.clone()))
            }
            Some(SecretReference::File(path)) => match self.files.read(path, MAX_SECRET_BYTES) {
                Ok(text) => {
                    let secret = text.strip_suffix('\n').unwrap_or(&text);
                    self.secret(secret.strip_suffix('\r').unwrap_or(secret), at)
                }
                Err(error) => self.no_secret(
                    at,
                    format!("the secret file `{path}` cannot be used: {error}"),
                ),
            },
            Some(SecretReference::Env(name)) => match self.environment.get(name) {
                Some(secret) => {
                    self.variables.insert(name.clone());
                    self.secret(secret, at)
                }
                None => self.no_secret(at, format!("the environment variable `{name}` is not set")),
            },
        }
    }

    fn secret(&mut self, secret: &str, at: Cursor<'_>) -> SeedCredential {
        if secret.is_empty() {
            return self.no_secret(at, "the secret is empty".to_owned());
        }
        SeedCredential::Secret(Redacted::new(secret.to_owned()))
    }

    fn no_secret(&mut self, at: Cursor<'_>, message: String) -> SeedCredential {
        let code = "fleet.secret_unreadable";
        match self.secrets {
            Secrets::Needed => self.problems.error(code, at.place(), message),
            Secrets::Optional => self.problems.warn(code, at.place(), message),
        };
        SeedCredential::Generated
    }
}

fn listen(section: &ListenSection) -> Listen {
    Listen {
        gateway: section.gateway.address(),
        redirect: section.redirect.address(),
        server: section.server.address(),
        grpc: section.grpc.address(),
        ops: section.ops.address(),
    }
}

pub(super) fn ip_lists(section: &IpSection) -> IpLists {
    let nets = |networks: &[Network]| networks.iter().map(|network| network.net()).collect();
    IpLists {
        allow: nets(&section.allow),
        deny: nets(&section.deny),
    }
}

pub(super) fn rate_limits(
    sections: &[LimitSection],
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) -> Vec<RateLimit> {
    let mut limits = Vec::new();
    for (index, section) in sections.iter().enumerate() {
        if section.burst == Some(0) {
            let place = at.index(index).key("burst").place();
            problems
                .error(
                    "fleet.limit_zero",
                    place,
                    "a burst of 0 lets no request through",
                )
                .help("give at least 1");
        }
        limits.push(RateLimit {
            per: section.per,
            requests: section.rate.requests(),
            period_millis: section.rate.period().millis(),
            burst: section.burst.unwrap_or(section.rate.requests()),
        });
    }
    limits
}

fn trusted_proxies(
    networks: &[Network],
    tree: Cursor<'_>,
    problems: &mut Problems<'_>,
) -> Vec<ipnet::IpNet> {
    let at = tree.key("gateway").key("trusted_proxies");
    for (index, network) in networks.iter().enumerate() {
        if network.net().prefix_len() == 0 {
            problems
                .error("fleet.trusts_everybody", at.index(index).place(), format!("`{network}` trusts everybody"))
                .why("any client could then write its own source address and pass address lists and limits")
                .help("give the addresses of the proxies in front of the gateway");
        }
    }
    networks.iter().map(|network| network.net()).collect()
}

fn proxy_protocol(
    section: &GatewaySection,
    tree: Cursor<'_>,
    problems: &mut Problems<'_>,
) -> ProxyProtocol {
    if section.proxy_protocol != ProxyProtocol::Off && section.trusted_proxies.is_empty() {
        let place = tree.key("gateway").key("proxy_protocol").place();
        problems
            .error(
                "fleet.proxy_protocol",
                place,
                "there are no `trusted_proxies` that could speak the PROXY protocol",
            )
            .why("a header of that protocol names any client its sender likes, so it is believed of trusted proxies only")
            .help("give the addresses of the proxies in front of the gateway as `trusted_proxies`");
    }
    section.proxy_protocol
}

fn observability(
    section: &ObservabilitySection,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) -> Observability {
    if let Err(error) = telemetry::check_filter(&section.log_filter) {
        problems.error(
            "fleet.log_filter",
            at.key("log_filter").place(),
            error.to_string(),
        );
    }
    if let Some(endpoint) = &section.otlp_endpoint
        && !["http://", "https://"]
            .iter()
            .any(|scheme| endpoint.starts_with(scheme) && endpoint.len() > scheme.len())
    {
        problems
            .error(
                "fleet.otlp_endpoint",
                at.key("otlp_endpoint").place(),
                "the collector's address is not a URL",
            )
            .help("write it like `http://127.0.0.1:4318`");
    }
    Observability {
        log_format: section.log_format,
        log_filter: section.log_filter.clone(),
        otlp_endpoint: section.otlp_endpoint.clone(),
    }
}

fn passwords(
    section: &PasswordSection,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) -> PasswordRules {
    if section.min_score > 4 {
        problems
            .error(
                "fleet.out_of_range",
                at.key("min_score").place(),
                format!("{} is more than there is", section.min_score),
            )
            .help("it goes from 0 to 4");
    }
    let breached_file = section.breached_file.as_ref().map(PathBuf::from);
    if breached_file
        .as_ref()
        .is_some_and(|path| path.is_relative())
    {
        problems
            .error(
                "fleet.passwords",
                at.key("breached_file").place(),
                "this is not an absolute path",
            )
            .why("the server reads it from its own disk, whoever applies the fleet file from wherever");
    }
    PasswordRules {
        min_score: section.min_score,
        breached_file,
    }
}

fn outbound(
    section: &OutboundSection,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> OutboundRules {
    let ca_file = section.ca_file.as_deref();
    let ca_pem = context.certificates(ca_file, at.key("ca_file"));
    OutboundRules {
        allow_networks: section.allow_networks.clone(),
        allow_http: section.allow_http,
        ca_pem,
    }
}

/// Policies and policy tests of the policy folder and the folders in it.
fn policies(
    file: &FleetFile,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> (Vec<PolicyFile>, Vec<PolicyFile>) {
    let folder = file.policy.directory.trim_end_matches('/');
    let (mut policies, mut tests) = (Vec::new(), Vec::new());
    let paths = match context.files.paths(folder) {
        Ok(paths) => paths,
        Err(error) => {
            let message = format!("the policy folder `{folder}` cannot be used: {error}");
            let is_absent = matches!(error, FileError::Missing);
            if at.is_written() || !is_absent {
                context
                    .problems
                    .error("fleet.policy_folder", at.place(), message);
            } else {
                warn_without_policies(at, context.problems);
            }
            return (policies, tests);
        }
    };
    for name in paths {
        let target = match name.as_str() {
            name if name.ends_with(".cedar") => &mut policies,
            name if name.ends_with(".test.toml") => &mut tests,
            _ => continue,
        };
        match context
            .files
            .read(&format!("{folder}/{name}"), limits::MAX_POLICY_FILE_BYTES)
        {
            Ok(text) => target.push(PolicyFile { name, text }),
            Err(error) => {
                let message = format!("`{folder}/{name}` cannot be used: {error}");
                context
                    .problems
                    .error("fleet.policy_folder", at.place(), message);
            }
        }
    }
    if policies.is_empty() && !context.problems.has_errors() {
        warn_without_policies(at, context.problems);
    }
    (policies, tests)
}

fn warn_without_policies(at: Cursor<'_>, problems: &mut Problems<'_>) {
    problems
        .warn("fleet.no_policies", at.place(), "there are no policies")
        .why("what no policy allows is denied: services cannot call each other, users can do nothing")
        .help("put `*.cedar` files into the policy folder");
}
