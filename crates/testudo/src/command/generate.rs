//! Completions and man pages, from the same tree as the help.

use std::{fs, io, path::Path};

use clap::CommandFactory;

use crate::{cli::Cli, failure::Outcome};

/// `testudo completions SHELL`.
pub fn completions(shell: clap_complete::Shell) -> Outcome {
    clap_complete::generate(shell, &mut Cli::command(), "testudo", &mut io::stdout());
    Ok(())
}

/// `testudo man DIRECTORY`.
pub fn man(directory: &Path) -> Outcome {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), directory)?;
    Ok(())
}
