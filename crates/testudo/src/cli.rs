//! The command tree: one definition feeds parsing, help, man pages and completions.

mod api_keys;
mod applications;
mod groups;
mod identity_providers;
mod signals;
mod tenants;
mod users;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use testudo_controlplane::{ServiceName, TenantName};

pub use self::api_keys::{ApiKeyArgument, ApiKeyCommand, NewApiKeyArguments};
pub use self::applications::{
    AccountArgument, ClientArgument, ClientCommand, NewAccountArguments, NewClientArguments,
    ServiceAccountCommand,
};
pub use self::groups::{GroupCommand, GroupProfileArguments, MemberArguments, RoleCommand};
pub use self::identity_providers::IdentityProviderCommand;
pub use self::signals::{SignalCommand, StreamArgument};
pub use self::tenants::TenantCommand;
pub use self::users::UserCommand;

/// Security in every service of a fleet, from one binary.
#[derive(Debug, Parser)]
#[command(
    name = "testudo",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(
    after_help = "Start with `testudo up FLEET.toml`. Exit codes: 0 done, 1 failed, 2 usage, 3 not found, \
4 denied or not logged in, 5 conflict, 6 check failed, 7 unreachable."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Options every command takes.
    #[command(flatten)]
    pub global: Global,
}

/// Options every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where logins and the last used fleet are remembered [default: ~/.config/testudo]
    #[arg(
        long,
        global = true,
        env = "TESTUDO_HOME",
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub home: Option<PathBuf>,

    /// Control plane to talk to, e.g. https://localhost:9443 [default: the last fleet started here, else
    /// that of the login]
    #[arg(
        long,
        global = true,
        env = "TESTUDO_SERVER",
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub server: Option<String>,

    /// PEM file with the CA of the control plane's certificate; a login remembers it
    #[arg(
        long,
        global = true,
        env = "TESTUDO_CA",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub ca: Option<PathBuf>,

    /// Tenant to log in to or to administer [default: the fleet itself]
    #[arg(
        long,
        global = true,
        env = "TESTUDO_TENANT",
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub tenant: Option<TenantName>,

    /// How results are printed; one JSON document, or one a line for streams
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        help_heading = "Global options"
    )]
    pub output: OutputFormat,

    /// Log filter, e.g. `info,testudo_dataplane=debug` [default: the fleet file's, or `info`; `up` on a terminal shows
    /// warnings only]
    #[arg(
        long,
        global = true,
        env = "TESTUDO_LOG",
        value_name = "FILTER",
        help_heading = "Global options"
    )]
    pub log: Option<String>,

    /// Log form; human on a terminal, JSON otherwise
    #[arg(
        long,
        global = true,
        env = "TESTUDO_LOG_FORMAT",
        value_enum,
        help_heading = "Global options"
    )]
    pub log_format: Option<LogFormatArgument>,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// How logs are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArgument {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// All commands, in the order people meet them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole fleet on this machine: control plane, gateway and a sidecar for each service
    Up(UpArguments),
    /// Run the control plane
    Server(ServerArguments),
    /// Run a gateway, joined to a control plane
    Gateway(GatewayArguments),
    /// Run a sidecar beside a service, joined to a control plane
    Sidecar(SidecarArguments),
    /// Check a fleet file and its policies without starting anything
    Check(FleetArgument),
    /// Put a changed fleet file into the running fleet, without restarts
    Apply(ApplyArguments),
    /// Show what is in force: snapshot, ledger, proxies
    Status,
    /// Log in, in a browser or with --username in the terminal
    Login(LoginArguments),
    /// Forget the login and revoke its session
    Logout,
    /// Print an access token of the login, renewed if needed; or explain one
    Token {
        /// What else to do
        #[command(subcommand)]
        command: Option<TokenCommand>,
    },
    /// Look at configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check, test and explain policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Read, prove and verify the ledger
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Tenants: users, groups and clients of their own, with an issuer of their own
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Users
    #[command(subcommand)]
    User(UserCommand),
    /// Groups, and who is in them
    #[command(subcommand)]
    Group(GroupCommand),
    /// Roles
    #[command(subcommand)]
    Role(RoleCommand),
    /// Move in from another identity provider
    #[command(subcommand)]
    Import(ImportCommand),
    /// Applications
    #[command(subcommand)]
    Client(ClientCommand),
    /// Service accounts: programs that act in their own name
    #[command(subcommand)]
    ServiceAccount(ServiceAccountCommand),
    /// API keys of service accounts, for what cannot ask for tokens
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// Identity providers elsewhere where users may log in
    #[command(subcommand)]
    IdentityProvider(IdentityProviderCommand),
    /// Login sessions
    #[command(subcommand)]
    Session(SessionCommand),
    /// Streams of signals: other systems that are told what happens to users and sessions
    #[command(subcommand)]
    Signal(SignalCommand),
    /// Proxies and what they enforce
    #[command(subcommand)]
    Proxy(ProxyCommand),
    /// One-use tokens with which proxies join
    #[command(subcommand)]
    JoinToken(JoinTokenCommand),
    /// Tokens with which applications register themselves
    #[command(subcommand)]
    RegistrationToken(RegistrationTokenCommand),
    /// Keys of the sealed store and the certificate authority
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write man pages
    Man {
        /// Folder for the pages; they are made for every command.
        directory: PathBuf,
    },
    /// Become a program that ends when the process that started it ends: how `up` runs services
    #[command(hide = true)]
    RunBound {
        /// Process to end with.
        parent: u32,
        /// Program and arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

/// A fleet file.
#[derive(Debug, Clone, Args)]
pub struct FleetArgument {
    /// The fleet file
    #[arg(default_value = "fleet.toml", value_name = "FLEET")]
    pub fleet: PathBuf,
}

/// `testudo up`.
#[derive(Debug, Args)]
pub struct UpArguments {
    /// The fleet file
    #[command(flatten)]
    pub fleet: FleetArgument,
    /// Where state is kept [default: `data.directory` of the fleet file]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// File with the root key; made at the first start [default: the data folder with `.key` added]
    #[arg(long, value_name = "FILE", env = "TESTUDO_ROOT_KEY_FILE")]
    pub root_key_file: Option<PathBuf>,
    /// Do not start the programs of the services' `run` tables
    #[arg(long)]
    pub no_run: bool,
    /// Where trace spans go, if elsewhere than the fleet file says
    #[command(flatten)]
    pub tracing: TracingArguments,
}

/// `testudo server`.
#[derive(Debug, Args)]
pub struct ServerArguments {
    /// The fleet file
    #[command(flatten)]
    pub fleet: FleetArgument,
    /// Where state is kept [default: `data.directory` of the fleet file]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// File with the root key; made at the first start [default: the data folder with `.key` added]
    #[arg(long, value_name = "FILE", env = "TESTUDO_ROOT_KEY_FILE")]
    pub root_key_file: Option<PathBuf>,
}

/// How a proxy finds and joins its control plane.
#[derive(Debug, Args)]
pub struct JoinArguments {
    /// Control plane's gRPC address, e.g. `control.internal:9444`; the join token may carry it
    #[arg(long, value_name = "HOST:PORT", env = "TESTUDO_CONTROL_PLANE")]
    pub control_plane: Option<String>,
    /// File with the join token (`testudo join-token create`), needed until the first enrolment
    #[arg(long, value_name = "FILE", env = "TESTUDO_JOIN_TOKEN_FILE")]
    pub join_token_file: Option<PathBuf>,
    /// Where the event spool is kept
    #[arg(long, value_name = "DIR", default_value = "proxy-data")]
    pub data: PathBuf,
    /// File with the key that seals the proxy's state; made at the first start [default: the data
    /// folder with `.key` added]
    #[arg(long, value_name = "FILE", env = "TESTUDO_STATE_KEY_FILE")]
    pub state_key_file: Option<PathBuf>,
    /// Address for health, readiness and metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15020")]
    pub ops: SocketAddr,
    /// Worker threads [default: one for each core; at least as many as the process that is taken over from]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Take over from the process that runs with the same data folder: it hands over its listening sockets, finishes
    /// its requests and ends. SIGUSR2 makes a running process start its successor so
    #[arg(long)]
    pub upgrade: bool,
    /// When stopping: time between the readiness check saying no and the listeners closing, for load balancers to notice
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    pub stop_delay: Duration,
    /// When stopping or handing over: time for requests and streams that are under way
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub drain_timeout: Duration,
    /// Where trace spans go
    #[command(flatten)]
    pub tracing: TracingArguments,
}

/// Where trace spans go.
#[derive(Debug, Clone, Args)]
pub struct TracingArguments {
    /// OpenTelemetry collector (OTLP over HTTP) that gets trace spans, e.g. http://127.0.0.1:4318
    #[arg(long, value_name = "URL", env = "TESTUDO_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// PEM file with the CA of an https collector
    #[arg(long, value_name = "FILE", env = "OTEL_EXPORTER_OTLP_CERTIFICATE")]
    pub otlp_ca: Option<PathBuf>,
}

/// `testudo gateway`.
#[derive(Debug, Args)]
pub struct GatewayArguments {
    /// Public HTTPS address
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Serve HTTP/3 as well, over UDP at the address of `--listen`
    #[cfg(feature = "http3")]
    #[arg(long)]
    pub http3: bool,
    /// Plain HTTP address that redirects to HTTPS; none if not given
    #[arg(long, value_name = "ADDRESS", requires = "public_names")]
    pub redirect: Option<SocketAddr>,
    /// Name that browsers are redirected to; may be repeated. Requests for another name go to the first
    #[arg(long = "public-name", value_name = "NAME")]
    pub public_names: Vec<String>,
    /// Public port of a service with `protocol = "tcp"` or `"tls"`; may be repeated
    #[arg(long = "connections", value_name = "SERVICE=ADDRESS")]
    pub connections: Vec<Way>,
    /// PEM file with the public certificate chain [default: a certificate of the fleet's own CA]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the key of the public certificate
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// Oldest TLS version accepted from outside
    #[arg(long, value_name = "VERSION", default_value = "1.3", value_parser = ["1.2", "1.3"])]
    pub tls_min: String,
    /// How it joins
    #[command(flatten)]
    pub join: JoinArguments,
}

/// `testudo sidecar`.
#[derive(Debug, Args)]
pub struct SidecarArguments {
    /// Address for calls from other proxies (mTLS)
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15006")]
    pub inbound: SocketAddr,
    /// Address for calls of the local service; keep it on loopback
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15001")]
    pub outbound: SocketAddr,
    /// Loopback address at which the local service finds one with `protocol = "tcp"` or `"tls"`; may be repeated
    #[arg(long = "connections", value_name = "SERVICE=ADDRESS")]
    pub connections: Vec<Way>,
    /// Address under which other proxies reach `--inbound` [default: the bound address]
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<SocketAddr>,
    /// How it joins
    #[command(flatten)]
    pub join: JoinArguments,
}

/// Where a service that takes connections is to be found: `SERVICE=ADDRESS`.
#[derive(Debug, Clone)]
pub struct Way {
    /// The service.
    pub called: ServiceName,
    /// The address to listen on.
    pub address: SocketAddr,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (called, address) = text
            .split_once('=')
            .ok_or("write it like `database=127.0.0.1:5432`")?;
        Ok(Self {
            called: called
                .parse()
                .map_err(|error: testudo_controlplane::InvalidName| error.to_string())?,
            address: address
                .parse()
                .map_err(|_| format!("`{address}` is not an address with a port"))?,
        })
    }
}

/// `testudo apply`.
#[derive(Debug, Args)]
pub struct ApplyArguments {
    /// The fleet file
    #[command(flatten)]
    pub fleet: FleetArgument,
    /// Say what would change; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Also if nobody could apply another fleet file over the network then
    #[arg(long)]
    pub allow_lockout: bool,
}

/// `testudo login`.
#[derive(Debug, Args)]
pub struct LoginArguments {
    /// Log in here instead of in a browser; the password is read from the terminal or standard input
    #[arg(long, short, value_name = "NAME")]
    pub username: Option<String>,
    /// Scopes to ask for
    #[arg(
        long,
        value_name = "SCOPES",
        default_value = "openid profile offline_access"
    )]
    pub scope: String,
    /// Print the address instead of opening a browser
    #[arg(long)]
    pub no_browser: bool,
}

/// `testudo config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective configuration
    Show {
        /// The fleet file
        #[command(flatten)]
        fleet: FleetArgument,
        /// Say where each value comes from: file and line, environment, default
        #[arg(long)]
        origin: bool,
    },
    /// Print the JSON schema of the fleet file
    Schema,
}

/// `testudo token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Say why an access token exists: login, consent, exchanges, and whether it is still good
    Explain {
        /// The token, or its id (`tok_…`); `-` reads it from standard input
        token: String,
        /// Write the proof of each step into this folder, for `testudo audit verify --proof`
        #[arg(long, value_name = "DIRECTORY")]
        proofs: Option<PathBuf>,
    },
}

/// `testudo policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check the fleet's policies against its schema
    Check(FleetArgument),
    /// Run the fleet's policy tests
    Test(FleetArgument),
    /// Say why a decision fell as it did
    Explain {
        /// Decision id (`dec_…`), from the answer or the ledger
        decision: String,
    },
}

/// `testudo audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Print events as they come
    Tail {
        /// Events to print before waiting for new ones
        #[arg(long, short = 'n', default_value_t = 10)]
        lines: usize,
        /// Stop after the present events instead of waiting
        #[arg(long)]
        no_follow: bool,
        /// Filter, as for `search`
        filter: Vec<String>,
    },
    /// Find events, newest first
    Search {
        /// `outcome=denied service=orders since=2026-11-22T10:00:00Z …`; other words match anywhere
        filter: Vec<String>,
        /// Events at most
        #[arg(long, short = 'n', default_value_t = 50)]
        limit: usize,
    },
    /// Print one event whole
    Show {
        /// Event id (`evt_…`), decision id or leaf index
        event: String,
    },
    /// Write a proof that an event is in the ledger, for offline verification
    Prove {
        /// Event id, decision id or leaf index
        event: String,
        /// File for the proof [default: standard output]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Write the whole ledger as files that anybody can verify
    Export {
        /// Folder to write
        directory: PathBuf,
    },
    /// Verify the running ledger, an exported one, or one event's proof
    Verify {
        /// An exported ledger to verify offline
        #[arg(long, value_name = "DIR", conflicts_with = "proof")]
        export: Option<PathBuf>,
        /// A proof file to verify offline
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
        /// A checkpoint kept from before: is everything that it covers still in the ledger, unchanged?
        #[arg(long, value_name = "FILE", conflicts_with = "proof")]
        checkpoint: Option<PathBuf>,
        /// The fleet's root certificates of all times, in PEM: with them not even the ledger's operator can have made
        /// up what a proxy reported. A running ledger is always verified against its own
        #[arg(long, value_name = "FILE", requires = "export")]
        roots: Option<PathBuf>,
        /// The ledger's verifier key (`testudo audit key`) [default: asked of the running fleet]
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// Print the ledger's verifier key; keep it away from the fleet
    Key,
    /// Print the newest signed checkpoint
    Checkpoint,
}

/// `testudo import`.
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Users with their passwords and authenticators, groups, roles and clients of a Keycloak realm
    #[command(
        after_help = "Export the realm with `kc.sh export --realm NAME --file realm.json`. Who is here already is not touched, \
                      so the same import can be made again."
    )]
    Keycloak {
        /// The export
        #[arg(value_name = "REALM.json")]
        file: PathBuf,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// `testudo session`.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// List sessions
    List {
        /// Of this user
        username: String,
    },
    /// Revoke one: its tokens stop working everywhere
    Revoke {
        /// Session id (`ses_…`)
        session: String,
    },
}

/// `testudo proxy`.
#[derive(Debug, Subcommand)]
pub enum ProxyCommand {
    /// List proxies and the snapshot each enforces
    List,
    /// Revoke a workload identity: certificates refused, connections closed
    Revoke {
        /// SPIFFE id
        spiffe_id: String,
    },
    /// Give a revoked identity back; its proxies join again with new tokens
    Reinstate {
        /// SPIFFE id
        spiffe_id: String,
    },
}

/// `testudo join-token`.
#[derive(Debug, Subcommand)]
pub enum JoinTokenCommand {
    /// Make a one-use token for one proxy
    Create {
        /// For the sidecar of this service
        #[arg(long, value_name = "NAME", required_unless_present = "gateway")]
        service: Option<String>,
        /// For a gateway
        #[arg(long, conflicts_with = "service")]
        gateway: bool,
        /// How long it may be used, e.g. `15m`
        #[arg(long, default_value = "15m", value_parser = parse_duration)]
        ttl: Duration,
    },
    /// Tokens that wait, and those of the last week that were used or expired; never their secrets
    List,
    /// Take a token back
    Delete {
        /// Its id, as `list` shows it: `join_…`
        #[arg(value_name = "ID")]
        token: String,
    },
}

/// `testudo registration-token`.
#[derive(Debug, Subcommand)]
pub enum RegistrationTokenCommand {
    /// Make a token with which applications can be registered; `[registration]` of the fleet file says what they may ask for
    Create {
        /// How many applications
        #[arg(long, default_value_t = 1, value_name = "NUMBER")]
        uses: u32,
        /// How long it may be used, e.g. `24h`; 30 days at most
        #[arg(long, default_value = "1h", value_parser = parse_duration)]
        ttl: Duration,
        /// What it is for, to find it again
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
    },
    /// Tokens that may still be used; never their secrets
    List(PageArguments),
    /// Take a token back; what was registered with it stays
    Delete {
        /// Its id, as `list` shows it: `rgt_…`
        #[arg(value_name = "ID")]
        token: String,
    },
}

/// `testudo key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Begin a new term of the store's keyring and seal all records anew, online
    Rotate,
    /// Begin a new certificate authority beside the old one
    RotateCa,
}

/// Paging.
#[derive(Debug, Args)]
pub struct PageArguments {
    /// Rows at most
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
    /// Continue after this cursor, as printed by the previous page
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<String>,
    /// Only what has this text in its name
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
}

/// `90s`, `15m`, `24h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` does not start with a number"))?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(format!("`{text}` needs a unit: s, m, h or d")),
    };
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        assert!(parse_duration("15").is_err());
        assert!(parse_duration("m").is_err());
    }
}
