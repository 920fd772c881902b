//! The arguments of `testudo group` and `testudo role`.

use clap::{Args, Subcommand, ValueEnum};

use super::PageArguments;

/// `testudo group`.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List groups
    List(PageArguments),
    /// Show one
    Show {
        /// Its name
        group: String,
    },
    /// Make one
    Create {
        /// Its name in policies
        group: String,
        /// What is said about it
        #[command(flatten)]
        profile: GroupProfileArguments,
    },
    /// Say all about one anew; who is in it stays
    Replace {
        /// Its name
        group: String,
        /// What is said about it
        #[command(flatten)]
        profile: GroupProfileArguments,
    },
    /// Delete one that nobody is in
    Delete {
        /// Its name
        group: String,
        /// Delete it even if somebody is in it: they leave it
        #[arg(long)]
        dissolve: bool,
    },
    /// List who is in it
    Members {
        /// Its name
        group: String,
        /// Also those who are in it through groups in it
        #[arg(long)]
        nested: bool,
        /// Which part of the list
        #[command(flatten)]
        page: PageArguments,
    },
    /// Put somebody, or another group, into it
    Add {
        /// Its name
        group: String,
        /// Whom
        #[command(flatten)]
        member: MemberArguments,
    },
    /// Take somebody, or another group, out of it; every proxy knows within a second
    Remove {
        /// Its name
        group: String,
        /// Whom
        #[command(flatten)]
        member: MemberArguments,
    },
}

/// What is said about a group.
#[derive(Debug, Args)]
pub struct GroupProfileArguments {
    /// Name for people
    #[arg(long, value_name = "TEXT")]
    pub display_name: Option<String>,
    /// Text for people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Group that it is in; may be repeated
    #[arg(long = "in", value_name = "GROUP")]
    pub parents: Vec<String>,
    /// Role that it gives; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    pub roles: Vec<String>,
}

/// A member of a group.
#[derive(Debug, Args)]
pub struct MemberArguments {
    /// Login name; with `--kind`, client id or name of a group
    pub member: String,
    /// What it is
    #[arg(long, value_enum, default_value_t)]
    pub kind: MemberKindArgument,
}

/// What can be in a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MemberKindArgument {
    /// A person.
    #[default]
    User,
    /// A machine.
    ServiceAccount,
    /// Another group.
    Group,
}

impl MemberKindArgument {
    /// As the API calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ServiceAccount => "service-account",
            Self::Group => "group",
        }
    }
}

/// `testudo role`.
#[derive(Debug, Subcommand)]
pub enum RoleCommand {
    /// List roles
    List(PageArguments),
    /// Make one
    Create {
        /// Its name in policies
        role: String,
        /// Text for people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Delete one that nobody has
    Delete {
        /// Its name
        role: String,
    },
}
