//! The fleet the attacks are aimed at: a service behind the gateway that keeps what it is sent, one that may
//! call parts of it, and one that may call nothing.

use std::{
    fs,
    io::{self, Read, Write},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use testudo_dataplane::link;
use testudo_model::{JoinToken, SpiffeId, TenantName, Timestamp, TrustDomain};
use testudo_runtime::SystemClock;
use testudo_store::{Record, Store, StoreOptions};
use testudo_trust::{
    ExpectedPeer, IdentitySource, SigningKey, SystemEntropy, base64url, load_or_create_root_key,
    mesh_client_config,
};

use crate::{
    fleet::{Fleet, Folder, free_ports},
    recorder::Recorder,
    wire::{self, Answer},
};

const POLICIES: &str = r#"
@id("helper-reaches-shop")
@reason("it asks the shop")
permit (principal == Fleet::Service::"helper", action == Fleet::Action::"connect", resource == Fleet::Service::"shop");

@id("helper-asks")
@reason("public things and orders, nothing of the administration")
permit (principal == Fleet::Service::"helper", action == Fleet::Action::"invoke", resource in Fleet::Api::"shop")
when {
  resource in [
    Fleet::Route::"shop:public", Fleet::Route::"shop:public.root", Fleet::Route::"shop:orders.show"
  ]
};

@id("customers-read-orders")
@reason("customers look at orders")
permit (
  principal in Fleet::Group::"customers",
  action == Fleet::Action::"read",
  resource == Fleet::Route::"shop:orders.show"
);

@id("shop-admins")
@reason("administrators do everything")
permit (principal in Fleet::Role::"shop-admin", action, resource in Fleet::Api::"shop");
"#;

const FLEET: &str = r#"
trust_domain = "shop.example"
public_names = ["localhost", "shop.example"]
roles = ["shop-admin", "testudo-admin", "testudo-auditor"]

[observability]
log_format = "json"

[gateway]
{gateway}

[services.shop]
upstream = "{shop}"
exposure = "external"

[[services.shop.routes]]
operation = "public"
match = "GET,POST /public/{*path}"
user = "none"

[[services.shop.routes]]
operation = "public.root"
match = "GET,POST /public"
user = "none"

[[services.shop.routes]]
operation = "limited"
match = "GET /limited"
user = "none"
limit = [{ per = "ip", rate = "3/h", burst = 3 }]

[[services.shop.routes]]
operation = "admin"
match = "GET,POST,DELETE /admin/{*path}"
action = "admin"

[[services.shop.routes]]
operation = "admin.root"
match = "GET,POST,DELETE /admin"
action = "admin"

[[services.shop.routes]]
operation = "orders.show"
match = "GET /api/orders/{id}"

[[services.shop.routes]]
operation = "orders.delete"
match = "DELETE /api/orders/{id}"
action = "admin"

[services.helper]
upstream = "127.0.0.1:{helper}"

[[services.helper.routes]]
operation = "help"
match = "GET /help"

[services.stranger]
upstream = "127.0.0.1:{stranger}"

[[services.stranger.routes]]
operation = "wave"
match = "GET /wave"

[groups]
customers = []

[users.alice]
groups = ["customers"]
password = { file = "passwords/alice" }

[users.root]
roles = ["shop-admin", "testudo-admin"]
password = { file = "passwords/root" }

[users.audrey]
roles = ["testudo-auditor"]
password = { file = "passwords/audrey" }

# Somebody whose account is locked out by failed logins, and nobody else's.
[users.larry]
password = { file = "passwords/larry" }

[service_accounts.robot]
roles = ["testudo-auditor"]
spiffe = "helper"

[clients.web]
redirect_uris = ["https://app.example/callback"]

[clients.help-desk]
kind = "confidential"
redirect_uris = ["https://desk.example/callback"]
secret = { file = "passwords/help-desk" }
"#;

/// A running fleet and the service behind it.
pub struct Shop {
    pub fleet: Fleet,
    pub upstream: Recorder,
}

impl Shop {
    /// Starts it, with further settings for the gateway.
    pub fn open(gateway: &str) -> Self {
        let upstream = Recorder::start();
        let [helper, stranger] = free_ports();
        let folder = Folder::empty();
        let text = FLEET
            .replace("{gateway}", gateway)
            .replace("{shop}", &upstream.address.to_string())
            .replace("{helper}", &helper.to_string())
            .replace("{stranger}", &stranger.to_string());
        fs::write(folder.fleet_file(), text).unwrap();
        fs::create_dir(folder.path().join("policies")).unwrap();
        fs::write(folder.path().join("policies/shop.cedar"), POLICIES).unwrap();
        fs::create_dir(folder.path().join("passwords")).unwrap();
        for name in ["alice", "root", "audrey", "larry", "help-desk"] {
            fs::write(folder.path().join("passwords").join(name), password(name)).unwrap();
        }
        Self {
            fleet: folder.up(),
            upstream,
        }
    }

    /// An access token of a user.
    pub fn token(&self, username: &str) -> String {
        self.fleet.token_with_scope(username, "openid profile")
    }

    pub fn gateway(&self) -> SocketAddr {
        self.fleet.address("/gateway")
    }

    /// The server as it names itself, which the certificate knows too.
    pub fn server(&self) -> SocketAddr {
        let url = self.fleet.ready["server"].as_str().unwrap();
        let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
        ([127, 0, 0, 1], port).into()
    }

    /// A new connection to the gateway.
    pub fn at_gateway(&self) -> Box<dyn Stream> {
        Box::new(wire::connect_tls(self.gateway(), "localhost", &self.fleet.tls()).unwrap())
    }

    /// A new connection to the identity provider and admin API.
    pub fn at_server(&self) -> Box<dyn Stream> {
        Box::new(wire::connect_tls(self.server(), "localhost", &self.fleet.tls()).unwrap())
    }

    /// A new connection straight to a sidecar's inbound side.
    pub fn at_sidecar(
        &self,
        service: &str,
        identity: &IdentitySource,
    ) -> io::Result<Box<dyn Stream>> {
        let clock = Arc::new(SystemClock::new());
        let tls = mesh_client_config(identity, ExpectedPeer::InTrustDomain, clock, &["http/1.1"]);
        let address = self.fleet.address(&format!("/sidecars/{service}/inbound"));
        Ok(Box::new(wire::connect_tls(address, "127.0.0.1", &tls)?))
    }

    /// One request on a connection of its own. `None`: closed without an answer.
    pub fn send(&self, request: &[u8]) -> Option<Answer> {
        wire::exchange(&mut self.at_gateway(), request).unwrap()
    }

    /// One request to the server on a connection of its own.
    pub fn ask_server(&self, request: &str) -> Answer {
        wire::exchange(&mut self.at_server(), request.as_bytes())
            .unwrap()
            .expect("an answer")
    }

    /// Enrols the way a proxy does, with a join token from the command line: `None` is a gateway. Whoever has
    /// the token is that service for the fleet, which is what makes it a good attacker.
    pub fn member(&self, service: Option<&str>) -> IdentitySource {
        let mut arguments = vec!["join-token", "create"];
        match service {
            Some(service) => arguments.extend(["--service", service]),
            None => arguments.push("--gateway"),
        }
        let token = JoinToken::parse(self.fleet.folder.run(&arguments).trim()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let joining = link::join(None, Some(&token), None, None, Arc::new(SystemClock::new()));
        runtime.block_on(joining).unwrap().identity
    }

    /// Decisions about requests to the shop of one activity and outcome in the ledger, once there are at least
    /// `expected`, which may take the time of a block.
    pub fn decisions(&self, activity: &str, outcome: &str, expected: usize) -> usize {
        let (activity, outcome) = (format!("activity={activity}"), format!("outcome={outcome}"));
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let arguments = [
                "audit",
                "search",
                "--limit",
                "100000",
                &activity,
                &outcome,
                "target=shop:*",
                "--output",
                "json",
            ];
            let found = self.fleet.folder.run(&arguments).lines().count();
            if found >= expected || Instant::now() > until {
                return found;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Stops the fleet, does `work` with its data, and starts it again: same ports, same keys.
    pub fn while_closed<T>(mut self, work: impl FnOnce(&Path, &Store) -> T) -> (Self, T) {
        assert_eq!(self.fleet.process.stop(), Some(0));
        let Fleet { folder, .. } = self.fleet;
        let done = {
            let store = open_store(&folder.data());
            work(&folder.data(), &store)
        };
        (
            Self {
                fleet: folder.up(),
                upstream: self.upstream,
            },
            done,
        )
    }

    /// The key that access tokens are signed with. No attacker has it; the tests need it to make tokens that
    /// are wrong in one respect only.
    pub fn with_issuer_key(self) -> (Self, SigningKey) {
        self.while_closed(|_, store| {
            let keys = store
                .tenant(&TenantName::default_tenant())
                .get::<IssuerKeys>("ES256")
                .unwrap()
                .unwrap();
            SigningKey::from_pkcs8(&base64url::decode(&keys.record.current).unwrap()).unwrap()
        })
    }
}

/// What the tests need of a connection.
pub trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

pub fn domain() -> TrustDomain {
    "shop.example".parse().unwrap()
}

pub fn service(name: &str) -> SpiffeId {
    domain().service(&name.parse().unwrap())
}

pub fn password(name: &str) -> String {
    format!("{name}-keeps-it-to-themselves")
}

fn open_store(data: &Path) -> Store {
    let root_key = load_or_create_root_key(&data.with_extension("key"), &SystemEntropy).unwrap();
    let clock = Arc::new(SystemClock::new());
    let options = StoreOptions {
        path: data.join("store"),
        root_key,
        clock,
        entropy: Arc::new(SystemEntropy),
    };
    Store::open(options).unwrap()
}

/// The claims of a token, unverified.
pub fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64url::decode(payload).unwrap()).unwrap()
}

/// The provider's record of its keys.
#[derive(Clone, Serialize, Deserialize)]
struct IssuerKeys {
    previous: Option<String>,
    current: String,
    next: String,
    rotated_at: Timestamp,
}

impl Record for IssuerKeys {
    const COLLECTION: &'static str = "identity.signing_keys";

    fn key(&self) -> String {
        "ES256".to_owned()
    }
}
