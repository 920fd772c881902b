//! What the command line remembers: the last fleet started on this machine, and logins.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use testudo_controlplane::client::{Connection, Target, TokenSet, refresh};
use testudo_controlplane::{Clock, Redacted, TenantName};
use testudo_runtime::SystemClock;

use crate::{
    cli::Global,
    failure::{Exit, Failure},
};

const FLEET_FILE: &str = "fleet.json";
const LOGIN_FILE: &str = "login.json";
/// An access token is renewed when less than this many seconds are left.
const RENEW_BEFORE_SECONDS: i64 = 30;

/// The fleet a command speaks to when nothing else is said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KnownFleet {
    /// `https://…:9443`.
    pub server: String,
    /// PEM file of the fleet's CA.
    pub ca: PathBuf,
    /// Admin socket.
    pub socket: PathBuf,
}

/// A login as kept on disk, mode 0600.
#[derive(Debug, Serialize, Deserialize)]
struct KeptLogin {
    server: String,
    /// The tenant, if it is not that of the fleet itself.
    tenant: Option<TenantName>,
    /// The CA it was got with, PEM: the file it came from may go.
    ca: String,
    tokens: TokenSet,
    /// When the tokens were got, seconds since the epoch.
    obtained_at: i64,
}

/// Folder and options of one invocation.
#[derive(Debug, Clone)]
pub struct Context {
    home: PathBuf,
    global: Global,
}

impl Context {
    /// From the options.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let home = match (&global.home, std::env::home_dir()) {
            (Some(home), _) => home.clone(),
            (None, Some(home)) => home.join(".config/testudo"),
            (None, None) => {
                let error = Failure::new(
                    Exit::Failed,
                    "there is no home directory to remember logins in",
                );
                return Err(error.help("set TESTUDO_HOME"));
            }
        };
        Ok(Self {
            home,
            global: global.clone(),
        })
    }

    /// Remembers the fleet that was just started.
    pub fn remember_fleet(&self, fleet: &KnownFleet) -> io::Result<()> {
        write_private(&self.home, FLEET_FILE, fleet)
    }

    /// The way for administration: the admin socket of a fleet on this machine unless `--server` says otherwise,
    /// else HTTPS with the login.
    pub async fn admin(&self) -> Result<Connection, Failure> {
        let connection = self.admin_of_fleet().await?;
        Ok(of_tenant(connection, self.global.tenant.as_ref()))
    }

    /// The same to what is about the whole fleet, whatever `--tenant` says.
    pub async fn admin_of_fleet(&self) -> Result<Connection, Failure> {
        if self.global.server.is_none()
            && let Some(fleet) = self.known_fleet()?
            && fleet.socket.exists()
        {
            return Ok(Connection::new(Target::Socket(fleet.socket)));
        }
        let token = self.access_token().await?;
        Ok(self.https_of(None)?.with_token(Redacted::new(token)))
    }

    /// The way over HTTPS without a login.
    pub fn https(&self) -> Result<Connection, Failure> {
        self.https_of(self.global.tenant.as_ref())
    }

    fn https_of(&self, tenant: Option<&TenantName>) -> Result<Connection, Failure> {
        let server = self.server_url()?;
        let roots_pem = self.roots_of(&server)?.into_bytes();
        let base = server
            .parse()
            .map_err(|error| Failure::new(Exit::Failed, error_of(&server, &error)))?;
        let connection = Connection::new(Target::Https { base, roots_pem });
        Ok(of_tenant(connection, tenant))
    }

    /// The CA of `server`: what `--ca` says, else that of the login there or of the fleet that was started here.
    fn roots_of(&self, server: &str) -> Result<String, Failure> {
        if let Some(file) = &self.global.ca {
            return read_ca(file);
        }
        let fleet = self.known_fleet()?;
        let started_here = fleet.as_ref().is_some_and(|fleet| fleet.server == server);
        let login = self.login()?.filter(|login| login.server == server);
        match (login, fleet) {
            (Some(login), _) if !started_here => Ok(login.ca),
            (_, Some(fleet)) => read_ca(&fleet.ca),
            (_, None) => Err(Failure::new(
                Exit::Unreachable,
                format!("the CA of {server} is not known"),
            )
            .help("name its PEM file with --ca; a login remembers it")),
        }
    }

    /// Base address of the control plane: what `--server` says, else the fleet last started here, else that of the login.
    pub fn server_url(&self) -> Result<String, Failure> {
        if let Some(server) = &self.global.server {
            return Ok(server.clone());
        }
        if let Some(fleet) = self.known_fleet()? {
            return Ok(fleet.server);
        }
        let login = self.login()?.ok_or_else(|| {
            Failure::new(
                Exit::Unreachable,
                "no fleet was started on this machine yet",
            )
            .help("start one with `testudo up FLEET.toml`, or name one with --server and --ca")
        })?;
        Ok(login.server)
    }

    /// Keeps a login.
    pub fn remember_login(&self, tokens: TokenSet) -> Result<(), Failure> {
        self.remember_login_of(self.global.tenant.clone(), tokens)
    }

    fn remember_login_of(
        &self,
        tenant: Option<TenantName>,
        tokens: TokenSet,
    ) -> Result<(), Failure> {
        let server = self.server_url()?;
        let login = KeptLogin {
            ca: self.roots_of(&server)?,
            server,
            tenant,
            tokens,
            obtained_at: SystemClock::new().now().unix_seconds(),
        };
        Ok(write_private(&self.home, LOGIN_FILE, &login)?)
    }

    /// Forgets the login; returns its refresh token so that it can be revoked. A login at another server stays, and
    /// its token is not this server's to see.
    pub fn forget_login(&self) -> Result<Option<String>, Failure> {
        let server = self.server_url()?;
        let is_it =
            |login: &KeptLogin| login.server == server && login.tenant == self.global.tenant;
        let Some(login) = self.login()?.filter(is_it) else {
            return Ok(None);
        };
        fs::remove_file(self.home.join(LOGIN_FILE))?;
        Ok(login.tokens.refresh_token)
    }

    /// An access token that is good for a while, renewed if needed.
    pub async fn access_token(&self) -> Result<String, Failure> {
        let not_logged_in =
            || Failure::new(Exit::Denied, "you are not logged in").help("run `testudo login`");
        let server = self.server_url()?;
        // Whoever is logged in to the fleet itself may administer its tenants.
        let is_it = |login: &KeptLogin| {
            let fits = login.tenant.is_none() || login.tenant == self.global.tenant;
            login.server == server && fits
        };
        let login = self.login()?.filter(is_it);
        let login = login.ok_or_else(not_logged_in)?;
        let expires = login.obtained_at.saturating_add(login.tokens.expires_in);
        if SystemClock::new().now().unix_seconds() < expires.saturating_sub(RENEW_BEFORE_SECONDS) {
            return Ok(login.tokens.access_token);
        }
        let token = login.tokens.refresh_token.ok_or_else(not_logged_in)?;
        let connection = self.https_of(login.tenant.as_ref())?;
        let renewed = refresh(&connection, &token).await?;
        let access_token = renewed.access_token.clone();
        self.remember_login_of(login.tenant, renewed)?;
        Ok(access_token)
    }

    fn known_fleet(&self) -> Result<Option<KnownFleet>, Failure> {
        read(&self.home.join(FLEET_FILE))
    }

    fn login(&self) -> Result<Option<KeptLogin>, Failure> {
        read(&self.home.join(LOGIN_FILE))
    }
}

fn of_tenant(connection: Connection, tenant: Option<&TenantName>) -> Connection {
    match tenant {
        Some(tenant) => connection.of_tenant(tenant),
        None => connection,
    }
}

fn read_ca(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("cannot read the CA file {}: {error}", file.display()),
        )
    })
}

fn error_of(server: &str, error: &dyn std::error::Error) -> String {
    format!("`{server}` is not an address: {error}")
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    match fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(Failure::new(
                Exit::Failed,
                format!("{} is damaged: {error}", path.display()),
            )
            .help("delete it and log in again")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::of_file("read", path, &error)),
    }
}

/// Writes readable by the owner only, whole or not at all.
fn write_private(home: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(home)?;
    let temporary = home.join(format!("{name}.{}.new", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&temporary, home.join(name))
}
