//! npm's `oidc-provider`: a provider that is certified, and not ours. A script that passes there and here is not bent to us.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::script_path;
use crate::{
    fleet::{Process, free_ports, wait_for_ready},
    installed::tool,
    own_certificate::Files,
};

/// The running provider. Everybody may log in there with any password.
pub struct Reference {
    pub issuer: String,
    /// The certificate of the authority that it has its own of.
    pub authority: PathBuf,
    _process: Process,
    _folder: TempDir,
}

impl Reference {
    /// Starts it with clients in the words of OpenID Connect Dynamic Client Registration 1.0 section 2, and a token with
    /// which others are registered.
    pub fn start(clients: &[Value], registration_token: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let files = Files::new(folder.path());
        files.renew();
        let [port] = free_ports();
        let told = json!({
            "port": port,
            "certificate": files.chain,
            "key": files.key,
            "clients": clients,
            "initial_access_token": registration_token,
        });
        let log = folder.path().join("log");
        let mut child = Command::new("node")
            .arg(script_path("reference.mjs"))
            .arg(tool(&[".tools/node_modules/oidc-provider/lib/index.js"]))
            .arg(told.to_string())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let ready = wait_for_ready(&mut child, &log);
        Self {
            issuer: ready["issuer"].as_str().unwrap().to_owned(),
            authority: files.root,
            _process: Process(child),
            _folder: folder,
        }
    }
}
