//! The arguments of `testudo signal`.

use clap::{Args, Subcommand};

use super::PageArguments;

/// `testudo signal`.
#[derive(Debug, Subcommand)]
pub enum SignalCommand {
    /// List the streams of all receivers, with how much waits for each
    List(PageArguments),
    /// Show one
    #[command(after_help = "Example: testudo signal show str_01M81HMGYM22EDG0E1P8MDBNEY -o json")]
    Show(StreamArgument),
    /// Send nothing over a stream any more: its receiver is told, and cannot undo it
    Disable(StreamArgument),
    /// Send what happens from now on over it again
    Enable(StreamArgument),
    /// Delete a stream with all that waits for its receiver, who may make another
    Delete(StreamArgument),
}

/// A stream of signals.
#[derive(Debug, Args)]
pub struct StreamArgument {
    /// Its id (`str_…`), as `list` shows it
    #[arg(value_name = "STREAM")]
    pub stream: String,
}
