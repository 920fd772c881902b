//! Starting the control plane: everything it is made of, in the order it starts.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use testudo_identity::GeneratedCredential;
use testudo_model::{Clock, Entropy, Redacted, SpiffeId, event::Actor};
use testudo_runtime::{Drain, Gate, Metrics, Readiness, Tasks, fleet::Fleet, with_causes};
use testudo_store::Store;
use testudo_trust::{
    IdentitySource, KeyFileError, RootKey, TrustBundle, WebCertificate, load_or_create_root_key,
    load_root_key, web_server_config_for_peers,
};
use testudo_workload::{Caller, JoinTokenRequest, WorkloadError};
use tokio::{net::TcpListener, task::JoinError};
use tracing::{error, info};

use crate::{
    apply::{ApplyError, apply},
    directories,
    http::{bind_socket, public_router, serve_https, serve_socket, socket_router},
    issuer_keys,
    mail::{Post, PostOptions},
    metrics::ControlMetrics,
    notices,
    outbound::Outbound,
    plane::{OpenError, Plane, PlaneOptions, store_folder},
    proxies::{self, ProxyPort},
    relay,
    upstreams::Upstreams,
};

/// How often metrics are brought up to date.
const OBSERVE: Duration = Duration::from_secs(5);
/// How often records that have expired are swept out and certificates looked at.
const UPKEEP: Duration = Duration::from_secs(60);
/// How often the trust bundle is compared with the CA file.
const CA_FILE_LOOK: Duration = Duration::from_secs(2);
/// Life of a join token that the same process uses at once.
const OWN_JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// What a control plane is started with.
pub struct ServerOptions {
    /// The fleet to put in force.
    pub fleet: Fleet,
    /// Data folder.
    pub data: PathBuf,
    /// Root key file.
    pub root_key_file: PathBuf,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Counters of this process.
    pub metrics: Metrics,
    /// Gates of this process.
    pub readiness: Readiness,
    /// Told when the process stops.
    pub drain: Drain,
}

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No root key.
    #[error(transparent)]
    RootKey(#[from] KeyFileError),
    /// A room does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The fleet cannot be put in force.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Somebody else listens there, or it is not ours.
    #[error("cannot listen on {address} for {purpose}")]
    Listen {
        /// Where.
        address: String,
        /// What for.
        purpose: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file in the data folder.
    #[error("{} cannot be written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its own certificates.
    #[error("the control plane's own certificates cannot be made")]
    Certificates(#[from] WorkloadError),
    /// Its own certificates cannot be used.
    #[error("the control plane's own certificate cannot be used")]
    Tls(#[from] testudo_trust::TlsError),
    /// No token for a proxy of this machine.
    #[error("no join token can be made")]
    JoinToken(#[source] WorkloadError),
    /// The runtime ended first.
    #[error("the process stops before the control plane has started")]
    Stopped,
    /// A thread or task did not start.
    #[error("a background thread does not start")]
    Thread(#[source] io::Error),
}

/// A running control plane.
pub struct Server {
    plane: Arc<Plane>,
    /// Where people reach it: `https://…`.
    pub url: String,
    /// Where the HTTPS interface listens.
    pub https: SocketAddr,
    /// Where proxies reach it.
    pub grpc: SocketAddr,
    /// The fleet's CA certificates, PEM.
    pub ca_file: PathBuf,
    /// The admin socket.
    pub socket: PathBuf,
    /// Credentials made at the first start: shown once.
    pub generated: Vec<GeneratedCredential>,
}

/// Starts everything. When it returns, the fleet is in force and proxies may join.
///
/// # Errors
/// See [`StartError`]; nothing is left running but what ends with `drain`.
pub async fn start(options: ServerOptions, tasks: &Tasks) -> Result<Server, StartError> {
    let gate = options.readiness.gate("control plane");
    gate.not_ready("starting");
    let https = bind(
        options.fleet.listen.server,
        "the identity provider and the admin API",
    )
    .await?;
    let grpc = bind(options.fleet.listen.grpc, "proxies").await?;
    let addresses = Addresses::of(&options.fleet, &https, &grpc)?;
    let Opened {
        plane,
        own,
        ca_file,
        generated,
    } = open(&options, &addresses).await?;
    let socket_path = options.data.join("admin.sock");
    let socket = bind_socket(&socket_path).map_err(|source| StartError::Listen {
        address: socket_path.display().to_string(),
        purpose: "the admin API",
        source,
    })?;
    let tls = web_server_config_for_peers(
        own.web.clone(),
        &own.identity,
        Arc::clone(&plane.clock),
        &["h2", "http/1.1"],
    );
    let outbound = Outbound::new(plane.outbound_rules.subscribe(), own.identity.clone());
    let outbound = Arc::new(outbound);
    let upstreams = Upstreams::new(Arc::clone(&outbound), Arc::clone(&plane.clock));
    // Nobody else sets it.
    let _ = plane.upstreams.set(upstreams);
    let drain = &options.drain;
    let metrics = ControlMetrics::register(&options.metrics, &plane.distribution);
    let router = public_router(&plane, &metrics);
    let post = Post::new(PostOptions {
        server: plane.mail_server.subscribe(),
        identity: own.identity.clone(),
        issuer: addresses.url.clone(),
        fleet: plane.site().name.to_owned(),
        clock: Arc::clone(&plane.clock),
        metrics: metrics.clone(),
    });
    tasks.spawn(
        "https interface",
        serve_https(https, tls, router, drain.clone()),
    );
    tasks.spawn(
        "metrics",
        observe(Arc::clone(&plane), metrics, drain.clone()),
    );
    tasks.spawn(
        "admin socket",
        serve_socket(socket, socket_router(&plane), drain.clone()),
    );
    let port = ProxyPort {
        workloads: Arc::clone(&plane.workloads),
        ledger: Arc::clone(&plane.ledger),
        distribution: Arc::clone(&plane.distribution),
        identity: own.identity.clone(),
        clock: Arc::clone(&plane.clock),
    };
    tasks.spawn("proxy port", port.serve(grpc, drain.watch()));
    tasks.spawn(
        "workload upkeep",
        proxies::keep_up(
            Arc::clone(&plane.workloads),
            Arc::clone(&plane.distribution),
            own.identity.clone(),
            Arc::clone(&plane.clock),
            drain.watch(),
        ),
    );
    tasks.spawn(
        "CA file",
        keep_ca_file(own.identity.clone(), ca_file.clone(), drain.clone()),
    );
    tasks.spawn(
        "notices",
        notices::deliver(Arc::clone(&plane), Arc::clone(&outbound), drain.clone()),
    );
    tasks.spawn(
        "mail",
        notices::deliver(Arc::clone(&plane), Arc::new(post), drain.clone()),
    );
    tasks.spawn(
        "issuer keys",
        issuer_keys::fetch(Arc::clone(&plane), outbound, drain.clone()),
    );
    tasks.spawn(
        "directories",
        directories::keep_up(Arc::clone(&plane), drain.clone()),
    );
    tasks.spawn("upkeep", keep_up(Arc::clone(&plane), own, drain.clone()));
    follow_store(&plane, drain, gate)?;
    let Addresses {
        url, https, grpc, ..
    } = addresses;
    Ok(Server {
        plane,
        url,
        https,
        grpc,
        ca_file,
        socket: socket_path,
        generated,
    })
}

impl Server {
    /// A join token for a proxy of this machine, to be used at once.
    ///
    /// # Errors
    /// The identity is not declared, the store fails, or the process stops.
    pub async fn join_token(&self, id: SpiffeId) -> Result<Redacted<String>, StartError> {
        let (plane, grpc) = (Arc::clone(&self.plane), self.grpc);
        let made = tokio::task::spawn_blocking(move || {
            let request = JoinTokenRequest {
                id,
                lifetime: OWN_JOIN_TOKEN_LIFETIME,
                server: Some(grpc.to_string()),
            };
            plane
                .workloads
                .create_join_token(&request, &Caller::default())
        });
        let token = finished(made.await)?.map_err(StartError::JoinToken)?;
        Ok(token.print())
    }
}

/// Where everything is, once the listeners are bound.
struct Addresses {
    url: String,
    https: SocketAddr,
    grpc: SocketAddr,
    grpc_name: String,
}

impl Addresses {
    fn of(fleet: &Fleet, https: &TcpListener, grpc: &TcpListener) -> Result<Self, StartError> {
        let bound = |listener: &TcpListener| {
            listener.local_addr().map_err(|source| StartError::Listen {
                address: "a bound port".to_owned(),
                purpose: "anything",
                source,
            })
        };
        let (https, grpc) = (bound(https)?, bound(grpc)?);
        let name = fleet
            .public_names
            .first()
            .map_or("localhost", String::as_str);
        let grpc_name = if grpc.ip().is_loopback() {
            grpc.to_string()
        } else {
            format!("{name}:{}", grpc.port())
        };
        Ok(Self {
            url: format!("https://{name}:{}", https.port()),
            https,
            grpc,
            grpc_name,
        })
    }
}

async fn bind(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen {
            address: address.to_string(),
            purpose,
            source,
        })
}

/// What is made before anything listens.
struct Opened {
    plane: Arc<Plane>,
    own: Own,
    ca_file: PathBuf,
    generated: Vec<GeneratedCredential>,
}

/// Opens the rooms and puts the fleet in force, on a blocking thread: all of it waits for the disk.
async fn open(options: &ServerOptions, addresses: &Addresses) -> Result<Opened, StartError> {
    let (fleet, data) = (options.fleet.clone(), options.data.clone());
    let root_key_file = options.root_key_file.clone();
    let (clock, entropy) = (Arc::clone(&options.clock), Arc::clone(&options.entropy));
    let (issuer, grpc_address) = (addresses.url.clone(), addresses.grpc_name.clone());
    let opened = tokio::task::spawn_blocking(move || {
        make_folder(&data)?;
        let plane = Plane::open(PlaneOptions {
            data: data.clone(),
            root_key: root_key(&root_key_file, &data, &*entropy)?,
            trust_domain: fleet.trust_domain.clone(),
            issuer,
            grpc_address,
            clock,
            entropy,
        })?;
        let actor = Actor {
            client: Some("start".to_owned()),
            ..Actor::default()
        };
        let applied = apply(&plane, &fleet, &actor)?;
        info!(snapshot = %applied.activated.snapshot.version, "the fleet is in force");
        let own = Own::make(&plane, fleet.public_names)?;
        let ca_file = data.join("ca.pem");
        write_ca(&ca_file, &own.identity.bundle())?;
        Ok(Opened {
            plane: Arc::new(plane),
            own,
            ca_file,
            generated: applied.generated,
        })
    });
    finished(opened.await)?
}

/// The key of the store in `data`; the first start makes it.
fn root_key(file: &Path, data: &Path, entropy: &dyn Entropy) -> Result<RootKey, KeyFileError> {
    if Store::exists(&store_folder(data)) {
        load_root_key(file)
    } else {
        load_or_create_root_key(file, entropy)
    }
}

/// What a blocking task answered. Its panic goes on here; if there was no panic and no answer, the runtime ended
/// before it ran.
fn finished<T>(done: Result<T, JoinError>) -> Result<T, StartError> {
    done.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => StartError::Stopped,
    })
}

/// The data folder is for its owner alone.
fn make_folder(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|source| StartError::File {
        path: path.to_owned(),
        source,
    })
}

/// The control plane's own certificates.
struct Own {
    identity: IdentitySource,
    web: WebCertificate,
    names: Vec<String>,
}

impl Own {
    fn make(plane: &Plane, names: Vec<String>) -> Result<Self, StartError> {
        let identity = proxies::own_identity(&plane.workloads)?;
        let web = web_certificate(plane, &names)?;
        Ok(Self {
            identity,
            web,
            names,
        })
    }
}

fn web_certificate(plane: &Plane, names: &[String]) -> Result<WebCertificate, StartError> {
    let issued = plane.workloads.issue_local_web(names)?;
    Ok(WebCertificate::issued(&issued.chain, &issued.key)?)
}

/// Brings the gauges up to date until the process drains.
async fn observe(plane: Arc<Plane>, metrics: ControlMetrics, drain: Drain) {
    let mut watch = drain.watch();
    loop {
        let (plane, metrics) = (Arc::clone(&plane), metrics.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || metrics.observe(&plane)).await {
            error!(
                error = with_causes(&error),
                "metrics are not brought up to date"
            );
        }
        tokio::select! {
            () = watch.drained() => return,
            () = tokio::time::sleep(OBSERVE) => {}
        }
    }
}

/// Keeps the CA file like the trust bundle: people have a new root before anything is signed by it.
async fn keep_ca_file(identity: IdentitySource, path: PathBuf, drain: Drain) {
    let mut watch = drain.watch();
    loop {
        tokio::select! {
            () = watch.drained() => return,
            () = tokio::time::sleep(CA_FILE_LOOK) => {}
        }
        let (bundle, path) = (identity.bundle(), path.clone());
        match tokio::task::spawn_blocking(move || write_ca(&path, &bundle)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(
                error = with_causes(&error),
                "the CA file could not be written"
            ),
            Err(error) => error!(
                error = with_causes(&error),
                "the CA file could not be written"
            ),
        }
    }
}

/// Every minute: sweeps what has expired, rotates the signing keys when it is time, renews the web certificate.
async fn keep_up(plane: Arc<Plane>, own: Own, drain: Drain) {
    let own = Arc::new(own);
    let mut watch = drain.watch();
    let mut turn = 0_u32;
    loop {
        tokio::select! {
            () = watch.drained() => return,
            () = tokio::time::sleep(UPKEEP) => {}
        }
        turn = turn.wrapping_add(1);
        let (plane, own) = (Arc::clone(&plane), Arc::clone(&own));
        // Web certificates live a day: a new one every hour is far from the edge.
        let renew = turn.is_multiple_of(60);
        let done = tokio::task::spawn_blocking(move || {
            if let Err(error) = plane.store.sweep_expired(plane.clock.now()) {
                error!(
                    error = with_causes(&error),
                    "expired records could not be swept"
                );
            }
            // A changed key is a changed directory: the relay thread distributes it.
            let caller = testudo_identity::Caller::default();
            for provider in plane.tenants.providers() {
                if let Err(error) = provider.rotate_signing_keys_if_due(&caller) {
                    error!(
                        error = with_causes(&error),
                        tenant = %provider.settings().tenant,
                        "the signing keys could not be rotated"
                    );
                }
            }
            match renew.then(|| web_certificate(&plane, &own.names)) {
                Some(Ok(web)) => own.web.swap(&web),
                Some(Err(error)) => error!(
                    error = with_causes(&error),
                    "the web certificate could not be renewed"
                ),
                None => {}
            }
        });
        if let Err(error) = done.await {
            error!(error = with_causes(&error), "upkeep ended badly");
        }
    }
}

/// Follows the store on a thread of its own.
fn follow_store(plane: &Arc<Plane>, drain: &Drain, gate: Gate) -> Result<(), StartError> {
    let (plane, drain) = (Arc::clone(plane), drain.clone());
    let thread = thread::Builder::new().name("relay".to_owned());
    let started = thread.spawn(move || {
        gate.ready();
        relay::follow(&plane, &drain);
    });
    started.map(|_| ()).map_err(StartError::Thread)
}

/// Writes the roots for `curl --cacert` and browsers, whole or not at all, if they changed.
fn write_ca(path: &Path, bundle: &TrustBundle) -> Result<(), StartError> {
    let pem = bundle.to_pem();
    if fs::read_to_string(path).is_ok_and(|known| known == pem) {
        return Ok(());
    }
    let temporary = path.with_extension("pem.new");
    let written = fs::write(&temporary, pem).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| StartError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicU64, Ordering},
        thread::ThreadId,
    };

    use testudo_runtime::fleet::Bundle;
    use testudo_testkit::{FakeClock, SeededEntropy};

    use super::*;

    /// Randomness is drawn where certificates are made and records are sealed.
    struct Watched {
        entropy: Arc<SeededEntropy>,
        runtime: ThreadId,
        on_runtime: AtomicU64,
        elsewhere: AtomicU64,
    }

    impl Entropy for Watched {
        fn fill(&self, bytes: &mut [u8]) {
            let counter = if thread::current().id() == self.runtime {
                &self.on_runtime
            } else {
                &self.elsewhere
            };
            counter.fetch_add(1, Ordering::SeqCst);
            self.entropy.fill(bytes);
        }
    }

    fn fleet() -> Fleet {
        let bundle = Bundle {
            name: "fleet.toml".to_owned(),
            text: "trust_domain = \"b.example\"\nlisten.server = \"127.0.0.1:0\"\nlisten.grpc = \"127.0.0.1:0\"\n"
                .to_owned(),
            files: BTreeMap::from([("policies/a.cedar".to_owned(), String::new())]),
            environment: BTreeMap::new(),
            overrides: Vec::new(),
        };
        bundle
            .load()
            .unwrap_or_else(|errors| panic!("{errors}"))
            .fleet
    }

    #[tokio::test]
    async fn a_start_leaves_what_waits_for_the_disk_to_blocking_threads() {
        let folder = tempfile::tempdir().unwrap();
        let clock = FakeClock::today();
        let entropy = Arc::new(Watched {
            entropy: SeededEntropy::new(1),
            runtime: thread::current().id(),
            on_runtime: AtomicU64::new(0),
            elsewhere: AtomicU64::new(0),
        });
        let (signal, drain) = Drain::new();
        let readiness = Readiness::new();
        let tasks = Tasks::new(readiness.clone(), drain.clone());
        let options = ServerOptions {
            fleet: fleet(),
            data: folder.path().join("data"),
            root_key_file: folder.path().join("root.key"),
            metrics: Metrics::new(&*clock),
            clock,
            entropy: entropy.clone(),
            readiness,
            drain,
        };
        let server = start(options, &tasks).await.unwrap();
        let id = server.plane.workloads.trust_domain().gateway();
        assert!(server.join_token(id).await.is_ok());
        assert!(server.ca_file.exists());
        assert!(entropy.elsewhere.load(Ordering::SeqCst) > 0);
        assert_eq!(entropy.on_runtime.load(Ordering::SeqCst), 0);
        drop(signal);
    }

    #[tokio::test]
    async fn a_cancelled_task_is_an_error_and_a_panic_goes_on() {
        let cancelled = tokio::spawn(std::future::pending::<()>());
        cancelled.abort();
        assert!(matches!(
            finished(cancelled.await),
            Err(StartError::Stopped)
        ));
        let panicked = tokio::task::spawn_blocking(|| panic!("as it should")).await;
        let caught =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| finished::<()>(panicked)));
        assert!(caught.is_err());
    }
}
