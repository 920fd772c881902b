//! The fleet file: what a fleet consists of, in TOML, validated into [`Fleet`].
//!
//! [`load`] puts four layers over each other (defaults, file, environment, flags), reports everything that is
//! wrong with file, line and column, and keeps for every setting where it came from ([`Origins`]). Nothing is
//! ignored: a key that is not known is an error, and a file with an error yields no fleet at all.

mod check;
mod connections;
mod declared;
mod directories;
mod document;
mod file;
mod files;
mod host;
mod identity_providers;
mod layers;
mod ldap_filter;
mod mail;
mod network;
mod origins;
mod passkeys;
mod people;
mod ports;
mod problem;
mod reader;
mod registration;
mod route_match;
mod schema;
mod secret;
mod services;
mod signals;
mod tenants;
mod text_value;
mod trusted_issuers;
mod units;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    path::Path,
};

use serde::{Deserialize, Serialize};
use testudo_model::limits;

pub use declared::{
    Attestation, ExternalWorkload, Fleet, GrantType, Listen, MailSecurity, MailServer,
    Observability, OutboundRules, PasskeyRules, PasswordRules, RunCommand, SeedAuthentication,
    SeedClient, SeedCredential, SeedServiceAccount, SeedUser, SidecarListen, SignatureAlgorithm,
    Tenant, TlsMinimum, TrustedIdentity, TrustedIssuer, TrustedKeys,
};
pub use directories::{Directory, DirectoryGroupsSection, DirectorySection, DirectorySecurity};
pub use file::{
    ClientKind, ClientSection, ConnectionsSection, ConsentRule, DataSection,
    ExternalWorkloadSection, FleetFile, GatewaySection, IpSection, LimitSection, ListenSection,
    MailSection, ObservabilitySection, OutboundSection, PasskeySection, PasswordSection,
    PolicySection, RedirectKind, RegistrationAuthMethod, RegistrationSection, RouteSection,
    RunSection, ServiceAccountSection, ServiceSection, SidecarSection, TrustedIssuerSection,
    UserSection,
};
pub use host::HostName;
pub use identity_providers::{
    AssuranceSection, GroupClaimSection, IdentityProvider, IdentityProviderSection, NewUserRule,
    UpstreamAuthMethod,
};
pub use layers::{Override, VARIABLE_PREFIX};
pub use ldap_filter::{LdapFilter, Part as LdapPart, Template as LdapTemplate};
pub use network::{ListenAddress, Network};
pub use origins::{Origin, Origins, Setting};
pub use problem::{Excerpt, FleetErrors, Location, Problem, Severity};
pub use route_match::{RouteMatch, Wildcard};
pub use schema::{schema, schema_text};
pub use secret::SecretReference;
pub use signals::SignalsSection;
pub use units::{Period, Rate, Size};

use check::{Context, Secrets};
use document::{Cursor, DeclaredNames, Node, Numbering, Place};
use files::Files;
use problem::{Problems, Source};

use crate::Environment;

/// A fleet with what is worth knowing about its file.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The fleet.
    pub fleet: Fleet,
    /// Where every setting came from.
    pub origins: Origins,
    /// What somebody should look at.
    pub warnings: Vec<Problem>,
    /// Everything that was read, to load the same fleet elsewhere.
    pub bundle: Bundle,
}

/// A fleet file with everything it depends on, as one value: what `testudo apply` sends. Loading it reads
/// nothing from the machine it is loaded on. **It holds the secrets** the file refers to.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The fleet file as named by the user.
    pub name: String,
    /// Its text.
    pub text: String,
    /// The other files, by the path that the fleet file has for them.
    pub files: BTreeMap<String, String>,
    /// The environment variables that counted.
    pub environment: BTreeMap<String, String>,
    /// The settings from the command line.
    pub overrides: Vec<Override>,
}

/// Syntax errors told at once: one forgotten bracket makes all lines after it look wrong.
const MAX_SYNTAX_ERRORS: usize = 3;

/// Loads the fleet file at `path` with the files it names.
///
/// # Errors
/// Everything that is wrong with it, with file, line and column.
pub fn load(
    path: &Path,
    environment: &Environment,
    overrides: &[Override],
) -> Result<Loaded, FleetErrors> {
    load_file(path, environment, overrides, Secrets::Needed)
}

/// As [`load`], for who only looks at rules: a secret that cannot be read here is worth a warning. What comes out
/// must not be put in force.
///
/// # Errors
/// As [`load`].
pub fn inspect(
    path: &Path,
    environment: &Environment,
    overrides: &[Override],
) -> Result<Loaded, FleetErrors> {
    load_file(path, environment, overrides, Secrets::Optional)
}

fn load_file(
    path: &Path,
    environment: &Environment,
    overrides: &[Override],
    secrets: Secrets,
) -> Result<Loaded, FleetErrors> {
    let name = path.display().to_string();
    let text =
        files::read_text(path, limits::MAX_FLEET_FILE_BYTES).map_err(|error| FleetErrors {
            problems: vec![unreadable(
                &name,
                format!("the fleet file cannot be used: {error}"),
            )],
        })?;
    let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    load_text(
        &name,
        &text,
        Files::in_folder(folder),
        environment,
        overrides,
        secrets,
    )
}

impl Bundle {
    /// Loads the fleet from the bundle alone.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Loaded, FleetErrors> {
        if self.text.len() > limits::MAX_FLEET_FILE_BYTES {
            let message = format!(
                "the fleet file has more than {} bytes",
                limits::MAX_FLEET_FILE_BYTES
            );
            return Err(FleetErrors {
                problems: vec![unreadable(&self.name, message)],
            });
        }
        let environment: Environment = self.environment.clone().into_iter().collect();
        let files = Files::in_memory(self.files.clone());
        let overrides = &self.overrides;
        load_text(
            &self.name,
            &self.text,
            files,
            &environment,
            overrides,
            Secrets::Needed,
        )
    }
}

/// Names only: the texts hold secrets.
impl fmt::Debug for Bundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Bundle")
            .field("name", &self.name)
            .field("files", &self.files.keys())
            .field("environment", &self.environment.keys())
            .finish_non_exhaustive()
    }
}

fn load_text(
    name: &str,
    text: &str,
    mut files: Files,
    environment: &Environment,
    overrides: &[Override],
    secrets: Secrets,
) -> Result<Loaded, FleetErrors> {
    let mut problems = Problems::new(Source::new(name, text));
    let refused = |problems: Problems<'_>| FleetErrors {
        problems: problems.into_sorted(),
    };

    let mut numbering = Numbering::default();
    let Some(mut tree) = parse(text, &mut numbering, &mut problems) else {
        return Err(refused(problems));
    };
    layers::apply_environment(&mut tree, environment, &mut numbering, &mut problems);
    layers::apply_overrides(&mut tree, overrides, &mut numbering, &mut problems);

    let names = DeclaredNames::of(&tree);
    let Some(file) = reader::read::<FleetFile>(&mut tree, &mut problems) else {
        return Err(refused(problems));
    };

    let mut context = Context {
        names: &names,
        problems: &mut problems,
        files: &mut files,
        environment,
        secrets,
        variables: BTreeSet::new(),
    };
    let fleet = check::check(&file, Cursor::new(&tree), &mut context);
    let variables = context.variables;
    if problems.has_errors() {
        return Err(refused(problems));
    }
    Ok(Loaded {
        fleet,
        origins: Origins::of(&file, &tree, &problems.source),
        warnings: problems.into_sorted(),
        bundle: Bundle {
            name: name.to_owned(),
            text: text.to_owned(),
            files: files.into_texts(),
            environment: environment
                .iter()
                .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX) || variables.contains(*name))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            overrides: overrides.to_vec(),
        },
    })
}

fn parse(text: &str, numbering: &mut Numbering, problems: &mut Problems<'_>) -> Option<Node> {
    let in_file = |span: Range<usize>| Place::File(span);
    match document::parse(text, numbering, &in_file) {
        Ok(tree) => Some(tree),
        Err(errors) => {
            for error in errors.into_iter().take(MAX_SYNTAX_ERRORS) {
                problems.error("fleet.syntax", &Place::File(error.span), error.message);
            }
            None
        }
    }
}

fn unreadable(name: &str, message: String) -> Problem {
    Problem {
        severity: Severity::Error,
        code: "fleet.unreadable",
        message,
        location: Location::File {
            file: name.to_owned(),
        },
        why: None,
        help: None,
    }
}
