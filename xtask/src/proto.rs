//! `gen-proto`: Rust from `proto/`, committed, so that a build needs neither `protoc` nor this tool.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const PROTO: &str = "testudo/proxy/v1/proxy.proto";
const GENERATED: &str = "testudo.proxy.v1.rs";

/// Which side of the wire a crate needs.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

/// Generated files: folder in the repository and side.
const TARGETS: [(&str, Side); 2] = [
    ("crates/dataplane/src/wire", Side::Client),
    ("crates/controlplane/src/wire", Side::Server),
];

/// Regenerates both sides in the repository.
///
/// # Errors
/// The protocol file does not compile, or a file cannot be written.
pub fn run() -> io::Result<()> {
    for (folder, side) in TARGETS {
        fs::write(target(folder), generate(side)?)?;
    }
    Ok(())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn target(folder: &str) -> PathBuf {
    repository().join(folder).join("proxy.rs")
}

/// The Rust text of one side.
fn generate(side: Side) -> io::Result<String> {
    let descriptors =
        protox::compile([PROTO], [repository().join("proto")]).map_err(io::Error::other)?;
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .build_client(matches!(side, Side::Client))
        .build_server(matches!(side, Side::Server))
        .build_transport(false)
        .bytes(".")
        .skip_debug([".testudo.proxy.v1.EnrolRequest"])
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds(descriptors)?;
    fs::read_to_string(out.path().join(GENERATED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_wire_code_is_what_the_protocol_file_says() {
        for (folder, side) in TARGETS {
            let committed = fs::read_to_string(target(folder)).unwrap();
            let fresh = generate(side).unwrap();
            assert!(
                committed == fresh,
                "{folder} is out of date: run `cargo run -p xtask -- gen-proto`"
            );
        }
    }
}
