//! Tasks of the repository that are neither build nor test: `cargo run -p xtask -- <task>`.

mod proto;
mod schema;

use std::{io, process::ExitCode};

fn main() -> ExitCode {
    let task = std::env::args().nth(1).unwrap_or_default();
    let done = match task.as_str() {
        "gen-proto" => proto::run(),
        "gen-schema" => schema::run(),
        _ => Err(io::Error::other("tasks: gen-proto, gen-schema")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = io::Write::write_all(
                &mut io::stderr(),
                format!("xtask: {task}: {error}\n").as_bytes(),
            );
            ExitCode::FAILURE
        }
    }
}
