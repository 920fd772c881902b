//! Arguments about applications and service accounts.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::{PageArguments, parse_duration};

/// `testudo client`.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// List applications: those of the fleet file, those made here, and those that registered themselves
    List(PageArguments),
    /// Show one
    Show(ClientArgument),
    /// Make one; the secret of a confidential one without keys is printed, this once
    Create(NewClientArguments),
    /// Delete an application: it gets no tokens any more
    Delete(ClientArgument),
    /// Give an application no tokens any more
    Disable(ClientArgument),
    /// Give it tokens again
    Enable(ClientArgument),
    /// Make a new secret and print it, this once
    RotateSecret {
        /// Its id: the name in `[clients]` or `[service_accounts]` of the fleet file
        #[arg(value_name = "ID")]
        client: String,
        /// How long the secret before stays good, e.g. `24h`; `0s` if it has leaked
        #[arg(long, default_value = "1h", value_parser = parse_duration)]
        overlap: Duration,
    },
}

/// An application.
#[derive(Debug, Args)]
pub struct ClientArgument {
    /// Its id, as `list` shows it
    #[arg(value_name = "ID")]
    pub client: String,
}

/// A new application.
#[derive(Debug, Args)]
pub struct NewClientArguments {
    /// Its `client_id`
    #[arg(value_name = "ID")]
    pub client: String,
    /// What people read on the login page [default: its id]
    #[arg(long, value_name = "TEXT")]
    pub display_name: Option<String>,
    /// It runs on a server and keeps a secret or keys; without this it runs at its users
    #[arg(long)]
    pub confidential: bool,
    /// Where answers may go; may be repeated
    #[arg(long = "redirect-uri", value_name = "URI")]
    pub redirect_uris: Vec<String>,
    /// How it gets tokens; may be repeated
    #[arg(long = "grant", value_enum, default_values = ["authorization-code", "refresh-token"])]
    pub grants: Vec<GrantArgument>,
    /// Scope it may ask for beside those of OpenID Connect; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    pub scopes: Vec<String>,
    /// JWK Set with the keys it signs with (`private_key_jwt`), instead of a secret
    #[arg(long, value_name = "FILE", requires = "confidential")]
    pub jwks_file: Option<PathBuf>,
    /// Ask its users what it may have
    #[arg(long)]
    pub consent: bool,
}

/// A grant of OAuth.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum GrantArgument {
    /// People log in in a browser
    AuthorizationCode,
    /// Tokens are renewed
    RefreshToken,
    /// People log in on another device
    DeviceCode,
}

impl GrantArgument {
    /// As the API calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::DeviceCode => "device_code",
        }
    }
}

/// `testudo service-account`.
#[derive(Debug, Subcommand)]
pub enum ServiceAccountCommand {
    /// List service accounts
    List(PageArguments),
    /// Show one
    Show(AccountArgument),
    /// Make one; the secret of one without keys or workload is printed, this once
    Create(NewAccountArguments),
    /// Delete one: its tokens and API keys end, the name is free again
    Delete(AccountArgument),
    /// Disable one: its tokens and API keys end, and it gets no others
    Disable(AccountArgument),
    /// Enable one again
    Enable(AccountArgument),
}

/// A service account.
#[derive(Debug, Args)]
pub struct AccountArgument {
    /// Its name
    #[arg(value_name = "NAME")]
    pub account: String,
}

/// A new service account.
#[derive(Debug, Args)]
pub struct NewAccountArguments {
    /// Its name, and its `client_id`
    #[arg(value_name = "NAME")]
    pub account: String,
    /// Text for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Group it is in; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// Role it has; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    pub roles: Vec<String>,
    /// Scope it may ask for; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    pub scopes: Vec<String>,
    /// SPIFFE id of a workload that may act as it, instead of a secret; may be repeated
    #[arg(long = "workload", value_name = "SPIFFE_ID")]
    pub workloads: Vec<String>,
    /// JWK Set with the keys it signs with (`private_key_jwt`), instead of a secret
    #[arg(long, value_name = "FILE")]
    pub jwks_file: Option<PathBuf>,
    /// It may receive signals of what happens to users and sessions, in tokens signed like this
    #[arg(long, value_name = "ALG", value_parser = ["RS256", "ES256"])]
    pub signals: Option<String>,
}
