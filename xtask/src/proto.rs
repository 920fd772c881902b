//! `gen-proto`: Rust from protocol files, committed, so that a build needs neither `protoc` nor this tool.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// One generated file.
struct Wire {
    /// The folder of the protocol file.
    root: &'static str,
    /// The protocol file in it.
    proto: &'static str,
    /// The generated file.
    target: &'static str,
    /// Which sides of the wire it has: client, server.
    sides: (bool, bool),
}

const WIRES: [Wire; 3] = [
    Wire {
        root: "proto",
        proto: "testudo/proxy/v1/proxy.proto",
        target: "crates/dataplane/src/wire/proxy.rs",
        sides: (true, false),
    },
    Wire {
        root: "proto",
        proto: "testudo/proxy/v1/proxy.proto",
        target: "crates/controlplane/src/wire/proxy.rs",
        sides: (false, true),
    },
    Wire {
        root: "examples/bookshop/app",
        proto: "pricing.proto",
        target: "examples/bookshop/app/src/wire/pricing.rs",
        sides: (true, true),
    },
];

/// Regenerates all of them in the repository.
///
/// # Errors
/// A protocol file does not compile, or a file cannot be written.
pub fn run() -> io::Result<()> {
    for wire in &WIRES {
        fs::write(repository().join(wire.target), wire.generate()?)?;
    }
    Ok(())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Wire {
    /// The Rust text.
    fn generate(&self) -> io::Result<String> {
        let descriptors = protox::compile([self.proto], [repository().join(self.root)])
            .map_err(io::Error::other)?;
        let out = tempfile::tempdir()?;
        let (client, server) = self.sides;
        tonic_prost_build::configure()
            .build_client(client)
            .build_server(server)
            .build_transport(false)
            .bytes(".")
            .skip_debug([".testudo.proxy.v1.EnrolRequest"])
            .emit_rerun_if_changed(false)
            .out_dir(out.path())
            .compile_fds(descriptors)?;
        // One file, named after the package.
        let generated = fs::read_dir(out.path())?
            .next()
            .ok_or_else(|| io::Error::other("nothing was generated"))??;
        fs::read_to_string(generated.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_wire_code_is_what_the_protocol_file_says() {
        for wire in &WIRES {
            let committed = fs::read_to_string(repository().join(wire.target)).unwrap();
            let fresh = wire.generate().unwrap();
            assert!(
                committed == fresh,
                "{} is out of date: run `cargo run -p xtask -- gen-proto`",
                wire.target
            );
        }
    }
}
