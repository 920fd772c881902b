//! npm's oidc-provider, set up for the same requests: one process, TLS by Node.js, everything in its memory.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use serde::Deserialize;
use serde_json::json;

use crate::{
    Outcome,
    caller::Origin,
    fleet::{SECRET, free_port},
    process::{PROXY_CORE, Process},
    scenario::Bench,
    tokens::{LOGINS, Logins},
};

/// Where the tests' `npm ci` puts it: `./test.sh` does.
const LIBRARY: &str = ".tools/node_modules/oidc-provider/lib/index.js";
const SCRIPT: &str = include_str!("oidc_provider.mjs");

/// A running provider.
pub(super) struct Peer {
    pub(super) process: Process,
    pub(super) address: SocketAddr,
    /// A token to ask about.
    pub(super) introspected: String,
    refresh_tokens: Vec<String>,
}

#[derive(Deserialize)]
struct Ready {
    introspected: String,
    refresh_tokens: Vec<String>,
}

impl Peer {
    /// Starts it on the core of what is measured; `None` if it is not installed.
    pub(super) fn start(bench: &Bench, folder: &Path) -> Outcome<Option<Self>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .ok_or("no workspace")?;
        let library = root.join(LIBRARY);
        if !library.exists() {
            return Ok(None);
        }
        let script = folder.join("oidc_provider.mjs");
        fs::write(&script, SCRIPT)?;
        let port = free_port()?;
        let told = json!({
            "port": port, "certificate": bench.web().chain, "key": bench.web().key,
            "client": "backend", "secret": SECRET, "sessions": LOGINS,
        });
        let mut command = Command::new("node");
        command.arg(script).arg(library).arg(told.to_string());
        let log = folder.join("oidc-provider.log");
        let mut process = Process::start(&command, PROXY_CORE, &log)?;
        let Some(line) = process.lines()?.next() else {
            return Err(format!("oidc-provider: {}", fs::read_to_string(log)?).into());
        };
        let Ready {
            introspected,
            refresh_tokens,
        } = serde_json::from_str(&line?)?;
        Ok(Some(Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            introspected,
            refresh_tokens,
        }))
    }

    /// Its logins.
    pub(super) fn logins(&mut self, bench: &Bench) -> Outcome<Logins> {
        let ca = bench.certificates().root();
        Ok(Logins {
            origin: Origin::new(self.address, "localhost", Some(&ca), false)?,
            host: format!("localhost:{}", self.address.port()),
            path: "/token",
            refresh_tokens: std::mem::take(&mut self.refresh_tokens),
        })
    }
}
