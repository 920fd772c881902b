//! A client for what `curl` does not show well: gRPC and WebSocket, through the gateway.
//!
//! As with `curl`, an answer is an answer, whatever it says: refusals are printed like anything else.

use std::{net::TcpStream, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::json;
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};
use tungstenite::{
    HandshakeError, Message, client::IntoClientRequest, http::header::AUTHORIZATION,
};

use crate::{
    Error,
    wire::{Price, QuoteRequest, WatchRequest, pricing_client::PricingClient},
};

/// A call to make.
pub struct Client {
    wish: Wish,
    /// `host:port` of the gateway.
    shop: String,
    /// PEM file with the certificate to trust.
    ca: String,
    /// An access token.
    token: Option<String>,
    /// When to stop listening.
    updates: usize,
}

enum Wish {
    Price(QuoteRequest),
    Prices,
    Reprice(Price),
    /// Over WebSocket; the others are gRPC.
    Watch {
        book: String,
    },
}

impl Client {
    /// Reads the command line; `None` if it is none of the client's.
    pub fn parse(arguments: &[String]) -> Option<Self> {
        let (mut shop, mut ca, mut token, mut updates) = (None, None, None, usize::MAX);
        let mut words = Vec::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--shop" => shop = rest.next(),
                "--ca" => ca = rest.next(),
                "--token" => token = Some(rest.next()?),
                "--updates" => updates = rest.next()?.parse().ok()?,
                word => words.push(word),
            }
        }
        let book = |id: &&str| (*id).to_owned();
        let wish = match words.as_slice() {
            ["price", id] => Wish::Price(QuoteRequest { book: book(id) }),
            ["prices"] => Wish::Prices,
            ["reprice", id, cents] => Wish::Reprice(Price {
                book: book(id),
                cents: cents.parse().ok()?,
            }),
            ["watch", id] => Wish::Watch { book: book(id) },
            _ => return None,
        };
        Some(Self {
            wish,
            shop: shop?.clone(),
            ca: ca?.clone(),
            token: token.cloned(),
            updates,
        })
    }

    /// Makes the call and prints what comes.
    ///
    /// # Errors
    /// There is no answer.
    pub fn run(self) -> Result<(), Error> {
        if let Wish::Watch { book } = &self.wish {
            return self.watch(book);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let channel = self.channel().await?;
            if let Err(status) = self.ask(PricingClient::new(channel)).await {
                print_refusal(&status);
            }
            Ok(())
        })
    }

    /// The calls over gRPC.
    async fn ask(&self, mut pricing: PricingClient<Channel>) -> Result<(), Status> {
        match &self.wish {
            Wish::Price(book) => print(
                &pricing
                    .quote(self.request(book.clone())?)
                    .await?
                    .into_inner(),
            ),
            Wish::Reprice(price) => print(
                &pricing
                    .reprice(self.request(price.clone())?)
                    .await?
                    .into_inner(),
            ),
            Wish::Prices => {
                let request = self.request(WatchRequest {})?;
                let mut prices = pricing.watch(request).await?.into_inner();
                for _ in 0..self.updates {
                    match prices.message().await? {
                        Some(price) => print(&price),
                        None => break,
                    }
                }
            }
            Wish::Watch { .. } => {}
        }
        Ok(())
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        if let Some(bearer) = self.bearer() {
            let bearer = bearer
                .parse()
                .map_err(|_| Status::invalid_argument("the token is no token"))?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }

    fn bearer(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    async fn channel(&self) -> Result<Channel, Error> {
        let tls = TlsConnector::from(self.tls(b"h2")?);
        let (shop, name) = (self.shop.clone(), self.server_name()?);
        // The scheme is that of the calls; the connection is made here.
        let origin = format!("https://{shop}").parse()?;
        let endpoint = Endpoint::from_shared(format!("http://{shop}"))?.origin(origin);
        let connector = tower::service_fn(move |_| {
            let (tls, shop, name) = (tls.clone(), shop.clone(), name.clone());
            async move {
                let stream = tokio::net::TcpStream::connect(shop).await?;
                tls.connect(name, stream).await.map(TokioIo::new)
            }
        });
        Ok(endpoint.connect_with_connector(connector).await?)
    }

    /// The call over WebSocket.
    fn watch(&self, book: &str) -> Result<(), Error> {
        let tls = ClientConnection::new(self.tls(b"http/1.1")?, self.server_name()?)?;
        let stream = StreamOwned::new(tls, TcpStream::connect(&self.shop)?);
        let mut request = format!("wss://{}/ticker/{book}", self.shop).into_client_request()?;
        if let Some(bearer) = self.bearer() {
            request.headers_mut().insert(AUTHORIZATION, bearer.parse()?);
        }
        let (mut socket, _) = match tungstenite::client(request, stream) {
            Ok(open) => open,
            Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                let body = answer.body().as_deref().unwrap_or_default();
                println!("{}", String::from_utf8_lossy(body));
                return Ok(());
            }
            Err(error) => return Err(error.to_string().into()),
        };
        let mut updates = 0;
        while updates < self.updates {
            match socket.read()? {
                Message::Text(text) => println!("{text}"),
                Message::Close(why) => {
                    let why = why.map_or_else(String::new, |why| why.to_string());
                    println!("closed: {why}");
                    break;
                }
                _ => continue,
            }
            updates += 1;
        }
        socket.close(None)?;
        while socket.read().is_ok() {}
        Ok(())
    }

    fn tls(&self, protocol: &[u8]) -> Result<Arc<ClientConfig>, Error> {
        let mut trusted = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.ca)? {
            trusted.add(certificate?)?;
        }
        let mut config = ClientConfig::builder()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }

    fn server_name(&self) -> Result<ServerName<'static>, Error> {
        let (host, _) = self.shop.rsplit_once(':').ok_or("--shop is HOST:PORT")?;
        Ok(ServerName::try_from(host.to_owned())?)
    }
}

fn print(price: &Price) {
    println!("{}", json!({ "book": price.book, "cents": price.cents }));
}

/// gRPC says in `grpc-status` and `grpc-message` what HTTP says in a status and a body.
fn print_refusal(status: &Status) {
    println!("grpc-status: {} ({})", status.code() as i32, status.code());
    println!("grpc-message: {}", status.message());
    let decision = status.metadata().get("testudo-decision");
    if let Some(Ok(decision)) = decision.map(|decision| decision.to_str()) {
        println!("testudo-decision: {decision}");
    }
}
