//! Completions and man pages, from the same tree as the help.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use clap::CommandFactory;

use crate::{cli::Cli, failure::Outcome};

/// `testudo completions SHELL`.
pub fn completions(shell: clap_complete::Shell) -> Outcome {
    // The generator panics when its writer fails, and a pipe may close any time.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "testudo", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// `testudo man DIRECTORY`.
pub fn man(directory: &Path) -> Outcome {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), directory)?;
    Ok(())
}
