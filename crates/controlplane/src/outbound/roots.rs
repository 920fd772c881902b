//! The certificate authorities that servers outside are checked with.

use std::{
    error::Error,
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::ClientConfig;
use testudo_trust::{IdentitySource, outbound_client_config};
use tokio::task::spawn_blocking;

/// Where systems keep their authorities: Debian and Alpine, Fedora, SUSE, the BSDs.
const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Largest file; those of systems have about 250 KB.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Why they cannot be used.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The fleet's own authorities, and others.
pub struct Roots {
    identity: IdentitySource,
    made: Mutex<Option<Made>>,
}

struct Made {
    /// Of the fleet's own authorities.
    generation: u64,
    /// What was given in place of the system's.
    given: Option<String>,
    config: Arc<ClientConfig>,
}

impl Roots {
    /// Those of the fleet, and others.
    pub const fn new(identity: IdentitySource) -> Self {
        Self {
            identity,
            made: Mutex::new(None),
        }
    }

    /// The client's side of TLS, made anew when the fleet's authorities or those given change.
    pub async fn config(&self, given: Option<&str>) -> Result<Arc<ClientConfig>, Failure> {
        let generation = self.identity.generation();
        if let Some(made) = &*self.made.lock().unwrap_or_else(PoisonError::into_inner)
            && made.generation == generation
            && made.given.as_deref() == given
        {
            return Ok(Arc::clone(&made.config));
        }
        let own = self.identity.bundle().to_pem();
        let given = given.map(str::to_owned);
        let making = spawn_blocking(move || {
            let others = match &given {
                Some(pem) => pem.clone().into_bytes(),
                None => system()?,
            };
            let config = outbound_client_config(own.as_bytes(), &others)?;
            Ok::<_, Failure>(Made {
                generation,
                given,
                config,
            })
        });
        let made = making.await??;
        let config = Arc::clone(&made.config);
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        Ok(config)
    }
}

/// The system's file, if it has one.
///
/// Errors: it cannot be read.
pub fn system() -> io::Result<Vec<u8>> {
    let mut files = SYSTEM_FILES.iter().map(Path::new);
    let Some(path) = files.find(|path| path.exists()) else {
        return Ok(Vec::new());
    };
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read(path)
}
