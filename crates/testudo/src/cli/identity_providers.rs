//! The arguments of `testudo identity-provider`.

use clap::Subcommand;

/// `testudo identity-provider`.
#[derive(Debug, Subcommand)]
pub enum IdentityProviderCommand {
    /// List them, as the fleet file says, with the redirect URIs to register there
    List,
}
