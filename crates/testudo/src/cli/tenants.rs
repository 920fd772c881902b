//! Arguments about tenants.

use clap::Subcommand;
use testudo_controlplane::TenantName;

use super::PageArguments;

/// `testudo tenant`.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// List tenants
    List(PageArguments),
    /// Make one; its first administrator is made with `testudo --tenant NAME user create … --role testudo-admin`
    Create {
        /// Its name, also in the address of its issuer
        tenant: TenantName,
        /// What people read [default: its name]
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
    },
    /// Call one otherwise
    Update {
        /// Its name
        tenant: TenantName,
        /// What people read
        #[arg(long, value_name = "TEXT")]
        display_name: String,
    },
    /// Let nobody log in there and take no token of its any more
    Disable {
        /// Its name
        tenant: TenantName,
    },
    /// Serve it again
    Enable {
        /// Its name
        tenant: TenantName,
    },
}
