//! What the services over HTTP share: a server with a few threads, and calls to each other.

use std::{io::Read, thread};

use serde_json::{Value, json};
use tiny_http::{Header, Request, Response, Server};

use crate::{
    Error,
    events::{self, Events},
};

/// Largest body read, in bytes.
const MAX_BODY: u64 = 64 * 1024;
/// Requests served at the same time.
const THREADS: usize = 8;

/// A service: one function from a call to an answer.
pub trait Service: Sync {
    /// Answers one call.
    fn answer(&self, call: &Call) -> Answer;

    /// Answers a call with events instead; `None` for a call that is answered once.
    fn events(&self, _call: &Call) -> Option<Events> {
        None
    }
}

/// One call as a service sees it.
pub struct Call {
    /// Upper-case method.
    pub method: String,
    /// Path segments, without the query.
    pub path: Vec<String>,
    /// The user, as whoever stands in front says.
    pub user: Option<String>,
    /// W3C trace context, passed on to other services.
    pub traceparent: Option<String>,
    /// JSON body, `null` if there is none.
    pub body: Value,
}

impl Call {
    /// The method and path in a form that `match` reads well.
    pub fn route(&self) -> (&str, Vec<&str>) {
        (&self.method, self.path.iter().map(String::as_str).collect())
    }
}

/// A status and a JSON body.
pub struct Answer(pub u16, pub Value);

impl Answer {
    /// 404.
    pub fn not_found() -> Self {
        Self(404, json!({ "error": "not found" }))
    }
}

/// Serves until the process ends.
///
/// # Errors
/// The port is taken.
pub fn serve(port: u16, service: &dyn Service) -> Result<(), Error> {
    let server = Server::http(("127.0.0.1", port))?;
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Ok(request) = server.recv() {
                    serve_one(request, service);
                }
            });
        }
    });
    Ok(())
}

fn serve_one(mut request: Request, service: &dyn Service) {
    let Answer(status, body) = match read(&mut request) {
        Ok(call) => match service.events(&call) {
            Some(events) => {
                // Not one of the few threads: it takes as long as the events do. The client may go meanwhile.
                thread::spawn(move || events::send(request.into_writer(), events));
                return;
            }
            None => service.answer(&call),
        },
        Err(error) => Answer(400, json!({ "error": error.to_string() })),
    };
    let response = Response::from_string(format!("{body}\n")).with_status_code(status);
    let response = match Header::from_bytes("Content-Type", "application/json") {
        Ok(header) => response.with_header(header),
        Err(()) => response,
    };
    // The client may be gone; nothing is left to do for it then.
    let _ = request.respond(response);
}

/// Calls another service by name and hands its answer on. `HTTP_PROXY` decides how it is reached.
pub fn call_service(call: &Call, method: &str, url: &str) -> Answer {
    let Ok(verb) = method.parse() else {
        return Answer(500, json!({ "error": "unknown method" }));
    };
    let mut request = attohttpc::RequestBuilder::new(verb, url);
    if let Some(traceparent) = &call.traceparent {
        request = request.header("traceparent", traceparent);
    }
    match request.send() {
        Ok(response) => {
            let status = response.status().as_u16();
            let text = response.text().unwrap_or_default();
            Answer(
                status,
                serde_json::from_str(&text).unwrap_or(Value::String(text)),
            )
        }
        Err(error) => Answer(502, json!({ "error": error.to_string() })),
    }
}

fn read(request: &mut Request) -> Result<Call, Error> {
    let header = |name: &'static str| {
        let field = request
            .headers()
            .iter()
            .find(|header| header.field.equiv(name));
        field.map(|header| header.value.to_string())
    };
    let (user, traceparent) = (header("X-User-Id"), header("traceparent"));
    let path = request.url().split('?').next().unwrap_or("").to_owned();
    let mut text = String::new();
    request
        .as_reader()
        .take(MAX_BODY)
        .read_to_string(&mut text)?;
    Ok(Call {
        method: request.method().to_string(),
        path: path.split('/').skip(1).map(str::to_owned).collect(),
        user,
        traceparent,
        body: if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text)?
        },
    })
}
