//! A proxy as a member of the fleet: key file, state folder, identity, spool and link, in the order they need
//! each other.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use testudo_model::{
    Clock, Entropy, InvalidJoinToken, JoinToken, Redacted, ServiceName, SpiffeId, TenantName,
    limits,
};
use testudo_runtime::{Drain, DrainWatch, Readiness, SpanSink, Tasks};
use testudo_trust::{
    IdentitySource, KeyFileError, TlsError, WebCertificate, load_or_create_root_key, load_root_key,
};

use crate::{
    ProxyMetrics, ProxyParts,
    link::{
        self, Expected, Leftovers, Link, LinkError, LinkOptions, ServerAddress, StateFolder,
        StateFolderError,
    },
    metrics::Standing,
    spool::{DEFAULT_MAX_BYTES, Spool, SpoolError, SpoolOptions, SpoolSink},
    state::ProxyState,
};

/// How often the public certificate is renewed; it lives a day.
const WEB_CERTIFICATE_RENEWAL: Duration = Duration::from_secs(3600);

/// How soon it is tried again when the control plane was away.
const WEB_CERTIFICATE_RETRY: Duration = Duration::from_secs(60);

/// How often the gauges are brought up to date.
const OBSERVE: Duration = Duration::from_secs(5);

/// What a proxy needs to become a member.
#[derive(Clone)]
pub struct MemberOptions {
    /// Its state folder: identity, snapshot and spool, all sealed.
    pub data: PathBuf,
    /// The key it is sealed with; made if there is no such file.
    pub state_key_file: PathBuf,
    /// Needed until the first enrolment, and after an outage longer than a certificate's life.
    pub join_token: Option<Redacted<String>>,
    /// `host:port` of the control plane; the join token may carry it.
    pub control_plane: Option<String>,
    /// Who the proxy is meant to be, if it was told.
    pub expected: Option<Expected>,
    /// Where other proxies reach it; `None` for a gateway.
    pub inbound: Option<SocketAddr>,
    /// Whether it takes over from a process that still writes its last events.
    pub takes_over: bool,
    /// Version of the binary.
    pub version: &'static str,
    /// Gates of this process.
    pub readiness: Readiness,
    /// Counters.
    pub metrics: ProxyMetrics,
    /// Takes trace spans, if they are exported.
    pub spans: Option<SpanSink>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// Why a proxy is no member.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The state key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The join token.
    #[error("the join token is malformed")]
    Token(#[from] InvalidJoinToken),
    /// The state folder.
    #[error("the state folder {} cannot be used", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: StateFolderError,
    },
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The public certificate.
    #[error("the public certificate cannot be used")]
    Certificate(#[from] TlsError),
}

impl MemberError {
    /// Whether nobody answered, so that the same may work later.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Link(error) if error.is_unreachable())
    }
}

/// A member of the fleet.
pub struct Member {
    /// What a role is started with.
    pub parts: ProxyParts,
    link: Arc<Link>,
    spool: Arc<Spool>,
    leftovers: Leftovers,
}

impl Member {
    /// Joins, or goes on where the last run ended.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn join(options: MemberOptions) -> Result<Self, MemberError> {
        let (clock, entropy) = (Arc::clone(&options.clock), Arc::clone(&options.entropy));
        let folder = Arc::new(open_folder(
            &options.data,
            &options.state_key_file,
            &entropy,
        )?);
        let token = options
            .join_token
            .as_ref()
            .map(|text| JoinToken::parse(text.expose()))
            .transpose()?;
        // What is said now comes before what was said at the first start.
        let named = options
            .control_plane
            .clone()
            .or_else(|| token.as_ref()?.server.clone());
        let named = match named {
            Some(named) => Some(named),
            None => folder.server().map_err(LinkError::from)?,
        };
        let server = named.as_deref().map(ServerAddress::parse).transpose()?;
        let expected = options.expected.as_ref();
        let membership = link::join(
            Some(&*folder),
            token.as_ref(),
            server.as_ref(),
            expected,
            Arc::clone(&clock),
        )
        .await?;
        let server = server.ok_or(LinkError::ServerNeeded)?;
        folder
            .keep_server(server.as_str())
            .map_err(LinkError::from)?;
        let state = ProxyState::new(Arc::clone(&clock));
        let spools = SpoolOptions {
            folder: PathBuf::new(),
            keyring: folder.keyring(),
            identity: membership.identity.clone(),
            tenant: TenantName::default_tenant(),
            max_bytes: DEFAULT_MAX_BYTES,
            ring: limits::EVENT_RING,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
        };
        let (spool, sink) = open_spool(&folder, &spools, options.takes_over)?;
        let leftovers = Leftovers::new(&folder, spools, spool.folder());
        let link = Link::new(LinkOptions {
            server,
            identity: membership.identity.clone(),
            state: Arc::clone(&state),
            spool: Arc::clone(&spool),
            folder: Some(folder),
            inbound: options.inbound,
            version: options.version,
            readiness: options.readiness,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
        })?;
        let parts = ProxyParts {
            identity: membership.identity,
            state,
            events: sink,
            clock,
            entropy,
            metrics: options.metrics,
            spans: options.spans,
        };
        Ok(Self {
            parts,
            link,
            spool,
            leftovers,
        })
    }

    /// Its identity.
    pub fn id(&self) -> SpiffeId {
        self.parts.identity.current().id().clone()
    }

    /// Has the certificate renewed at once instead of at half of its life.
    pub fn renew_now(&self) {
        self.link.renew_now();
    }

    /// Whether the control plane has answered since the start.
    pub fn was_heard(&self) -> bool {
        self.link.since_contact().is_some()
    }

    /// Whether it knows that the sidecar of `service` is reached at `address`.
    pub fn knows(&self, service: &ServiceName, address: SocketAddr) -> bool {
        let endpoints = self.parts.state.endpoints();
        endpoints
            .services
            .get(service)
            .is_some_and(|known| known.contains(&address))
    }

    /// Keeps the link up until the process drains.
    pub fn keep_up(&self, tasks: &Tasks, drain: &Drain) {
        let name = format!("link of {}", self.id());
        tasks.spawn(name, Arc::clone(&self.link).run(drain.watch()));
        let shipped = self
            .leftovers
            .clone()
            .ship(Arc::clone(&self.link), drain.watch());
        tasks.spawn(format!("earlier events of {}", self.id()), shipped);
        let observed = observe(
            self.parts.identity.clone(),
            self.parts.metrics.clone(),
            Arc::clone(&self.link),
            Arc::clone(&self.spool),
            drain.watch(),
        );
        tasks.spawn(format!("gauges of {}", self.id()), observed);
    }

    /// A public certificate of the fleet's own CA, renewed until the process drains.
    ///
    /// # Errors
    /// The control plane is away or refuses.
    pub async fn web_certificate(
        &self,
        tasks: &Tasks,
        drain: &Drain,
    ) -> Result<WebCertificate, MemberError> {
        let (certificate, mut pause) = issue(&self.link).await?;
        let (link, renewed, mut watch) =
            (Arc::clone(&self.link), certificate.clone(), drain.watch());
        tasks.spawn("public certificate", async move {
            loop {
                tokio::select! {
                    () = watch.drained() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = match issue(&link).await {
                    Ok((next, pause)) => {
                        renewed.swap(&next);
                        pause
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the public certificate was not renewed");
                        WEB_CERTIFICATE_RETRY
                    }
                };
            }
        });
        Ok(certificate)
    }

    /// Writes and ships the last events; `false` if some stay on disk for the next run.
    pub async fn finish(self, deadline: Duration) -> bool {
        let spool = Arc::clone(&self.spool);
        let closed = tokio::task::spawn_blocking(move || spool.close(deadline)).await;
        closed.unwrap_or(false) && self.link.ship_rest(deadline).await
    }
}

/// Brings the gauges up to date until the process drains.
async fn observe(
    identity: IdentitySource,
    metrics: ProxyMetrics,
    link: Arc<Link>,
    spool: Arc<Spool>,
    mut watch: DrainWatch,
) {
    loop {
        let svid = identity.current();
        let standing = Standing {
            svid_expires: svid.not_after(),
            silence: link.since_contact(),
            spool: spool.status(),
        };
        metrics.standing(svid.id(), &standing);
        tokio::select! {
            () = watch.drained() => return,
            () = tokio::time::sleep(OBSERVE) => {}
        }
    }
}

/// The first spool of the folder that nobody writes. Only for who takes over there may be somebody.
fn open_spool(
    folder: &StateFolder,
    options: &SpoolOptions,
    takes_over: bool,
) -> Result<(Arc<Spool>, Arc<SpoolSink>), SpoolError> {
    let mut places = folder.spools();
    loop {
        let place = places.next().ok_or_else(|| SpoolError::Locked {
            path: folder.spools().next().unwrap_or_default(),
        })?;
        let options = SpoolOptions {
            folder: place,
            ..options.clone()
        };
        match Spool::open(options) {
            Err(SpoolError::Locked { .. }) if takes_over => {}
            opened => return opened,
        }
    }
}

fn open_folder(
    path: &Path,
    key_file: &Path,
    entropy: &Arc<dyn Entropy>,
) -> Result<StateFolder, MemberError> {
    let key = if StateFolder::exists(path) {
        load_root_key(key_file)?
    } else {
        load_or_create_root_key(key_file, &**entropy)?
    };
    StateFolder::open(path, &key, Arc::clone(entropy)).map_err(|source| MemberError::Folder {
        path: path.to_owned(),
        source,
    })
}

/// A certificate and when to ask for the next one.
async fn issue(link: &Link) -> Result<(WebCertificate, Duration), MemberError> {
    let issued = link.web_identity().await?;
    let certificate = WebCertificate::issued(&issued.chain, &issued.key)?;
    if issued.is_kept {
        tracing::warn!("the control plane is away: using the public certificate of the last run");
        return Ok((certificate, WEB_CERTIFICATE_RETRY));
    }
    Ok((certificate, WEB_CERTIFICATE_RENEWAL))
}
