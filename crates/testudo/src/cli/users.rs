//! Arguments about users.

use std::time::Duration;

use clap::Subcommand;

use super::{PageArguments, parse_duration};

/// `testudo user`.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// List users
    List(PageArguments),
    /// Show one
    Show {
        /// Login name
        username: String,
    },
    /// Make one; the password is read from the terminal or standard input
    Create {
        /// Login name
        username: String,
        /// Name for people
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// Mail address
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        /// That address is known to be theirs
        #[arg(long, requires = "email")]
        email_verified: bool,
        /// Group they are in; may be repeated
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// Role they have; may be repeated
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// Without a password: they exist in policies, and cannot log in
        #[arg(long)]
        no_password: bool,
    },
    /// Delete one: all sessions and tokens end, the name is free again
    Delete {
        /// Login name
        username: String,
    },
    /// Disable one: no login, no token, all sessions revoked
    Disable {
        /// Login name
        username: String,
    },
    /// Enable one again
    Enable {
        /// Login name
        username: String,
    },
    /// Make a link with which somebody who cannot log in adds a passkey: a new user, or one who has lost theirs
    Invite {
        /// Login name
        username: String,
        /// How long the link is good, e.g. `24h`; seven days at most. It is good once
        #[arg(long, default_value = "24h", value_parser = parse_duration)]
        ttl: Duration,
    },
    /// List the passkeys of one
    Passkeys {
        /// Login name
        username: String,
    },
    /// Remove a passkey of somebody who has lost it
    RemovePasskey {
        /// Login name
        username: String,
        /// Its id, as `passkeys` lists it
        passkey: String,
    },
    /// List the accounts elsewhere that log one in
    Links {
        /// Login name
        username: String,
    },
    /// Connect one to an account elsewhere, which logs them in from now on
    Connect {
        /// Login name
        username: String,
        /// Name of the identity provider, as `identity-provider list` shows it
        #[arg(long, value_name = "NAME")]
        identity_provider: String,
        /// What it calls them: the `sub` of its ID tokens
        #[arg(long)]
        subject: String,
    },
    /// Part one from an account elsewhere: sessions by it end
    Disconnect {
        /// Login name
        username: String,
        /// Its id, as `links` lists it
        link: String,
    },
    /// Remove the authenticator and recovery codes of somebody who has lost them
    ResetSecondFactor {
        /// Login name
        username: String,
    },
    /// Say that the mail address of a user is theirs, without a link that is sent there
    VerifyEmail {
        /// Login name
        username: String,
    },
    /// Set a password, read from the terminal or standard input
    Password {
        /// Login name
        username: String,
    },
}
