//! The ticker: how many copies there are of a book, told over a WebSocket whenever it changes.

use std::{
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use serde_json::Value;
use tungstenite::{
    Message, WebSocket,
    handshake::server::{ErrorResponse, Request, Response},
    http::StatusCode,
    protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
};

use crate::{
    Error,
    service::{Answer, Call, call_service},
};

/// WebSockets open at the same time.
const MAX_OPEN: usize = 64;
/// Largest message read, in bytes.
const MAX_MESSAGE: usize = 1024;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How often the inventory is asked.
const INTERVAL: Duration = Duration::from_millis(500);

/// Serves until the process ends.
///
/// # Errors
/// The port is taken.
pub fn serve(port: u16) -> Result<(), Error> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let open = Arc::new(());
    for client in listener.incoming() {
        let (client, seat) = (client?, Arc::clone(&open));
        if Arc::strong_count(&seat) <= MAX_OPEN + 1 {
            thread::spawn(move || {
                let _seat = seat;
                // That the client went away is no news to anybody.
                let _ = serve_client(client);
            });
        }
    }
    Ok(())
}

#[allow(
    clippy::result_large_err,
    reason = "the handshake's callback is typed so"
)]
fn serve_client(client: TcpStream) -> Result<(), Error> {
    client.set_read_timeout(Some(HANDSHAKE_DEADLINE))?;
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let mut wish = None;
    let socket = tungstenite::accept_hdr_with_config(
        client,
        |request: &Request, response| match Wish::read(request) {
            Some(read) => {
                wish = Some(read);
                Ok(response)
            }
            None => Err(not_found()),
        },
        Some(limits),
    )
    .map_err(|error| error.to_string())?;
    wish.map_or(Ok(()), |wish| wish.fulfil(socket))
}

/// What a client wants to be told.
struct Wish {
    book: String,
    call: Call,
}

impl Wish {
    /// Reads `/ticker/BOOK`.
    fn read(request: &Request) -> Option<Self> {
        let book = request.uri().path().strip_prefix("/ticker/")?;
        let field = |name| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
        Some(Self {
            book: book.to_owned(),
            call: Call {
                method: "GET".to_owned(),
                path: Vec::new(),
                user: field("x-user-id"),
                // As long as the WebSocket is open, its trace tells on whose behalf the inventory is asked.
                traceparent: field("traceparent"),
                body: Value::Null,
            },
        })
    }

    /// Tells the stock when it changes, and whenever the client says something.
    fn fulfil(&self, mut socket: WebSocket<TcpStream>) -> Result<(), Error> {
        socket.get_ref().set_read_timeout(Some(INTERVAL))?;
        let url = format!("http://inventory/stock/{}", self.book);
        let mut told = String::new();
        loop {
            let Answer(status, stock) = call_service(&self.call, "GET", &url);
            let stock = stock.to_string();
            if told != stock {
                socket.send(Message::text(stock.clone()))?;
                told = stock;
            }
            if status != 200 {
                socket.close(Some(CloseFrame {
                    code: CloseCode::Policy,
                    reason: "the inventory does not tell".into(),
                }))?;
            }
            match socket.read() {
                Ok(_) => told.clear(),
                Err(tungstenite::Error::Io(error)) if is_silence(error.kind()) => {}
                Err(_) => return Ok(()),
            }
        }
    }
}

/// What a read that took too long is called differs between systems.
fn is_silence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn not_found() -> ErrorResponse {
    let mut response = Response::new(()).map(|()| None);
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
