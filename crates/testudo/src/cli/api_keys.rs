//! Arguments about API keys.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{PageArguments, parse_duration};

/// `testudo api-key`.
#[derive(Debug, Subcommand)]
pub enum ApiKeyCommand {
    /// Make a key of a service account and print it, this once
    #[command(
        after_help = "Services take keys that say `api_keys = true` in the fleet file:\n  \
testudo api-key create ci --name deploys --service orders --network 192.0.2.0/24 --ttl 30d\n  \
curl -H \"Authorization: Bearer $KEY\" https://shop.example/orders/1"
    )]
    Create(NewApiKeyArguments),
    /// Keys that are good; never themselves
    List(PageArguments),
    /// Show what is known of one
    Show(ApiKeyArgument),
    /// Make a key like another and print it, this once
    #[command(
        after_help = "Without a gap: `testudo api-key rotate key_… --overlap 24h`, then use the new one. \
If it has leaked: `--overlap 0s`"
    )]
    Rotate {
        /// The key before
        #[command(flatten)]
        key: ApiKeyArgument,
        /// How long the key before stays good, e.g. `24h`; `0s` if it has leaked
        #[arg(long, default_value = "24h", value_parser = parse_duration)]
        overlap: Duration,
    },
    /// Take a key back, at every gateway at once
    Revoke(ApiKeyArgument),
}

/// An API key.
#[derive(Debug, Args)]
pub struct ApiKeyArgument {
    /// Its id, as `list` shows it: `key_…`
    #[arg(value_name = "ID")]
    pub key: String,
}

/// A new API key.
#[derive(Debug, Args)]
pub struct NewApiKeyArguments {
    /// The service account it is for
    #[arg(value_name = "ACCOUNT")]
    pub account: String,
    /// What it is for, to find it again
    #[arg(long, value_name = "TEXT")]
    pub name: String,
    /// How long it is good, e.g. `30d`; 366 days at most
    #[arg(long, default_value = "90d", value_parser = parse_duration)]
    pub ttl: Duration,
    /// Scope of the account that it has; may be repeated [default: all of them]
    #[arg(long = "scope", value_name = "SCOPE")]
    pub scopes: Vec<String>,
    /// Service it is for; may be repeated [default: all that take keys]
    #[arg(long = "service", value_name = "NAME")]
    pub services: Vec<String>,
    /// Network it may be used from, e.g. `192.0.2.0/24`; may be repeated [default: anywhere]
    #[arg(long = "network", value_name = "NETWORK")]
    pub networks: Vec<String>,
}
