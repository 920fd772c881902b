//! The example fleet: five small programs that know nothing of Testudo, and a client for two of them.
//!
//! `bookshop <catalog|orders|inventory|pricing|ticker> --port PORT` is a service. Services listen on loopback, trust
//! the `X-User-Id` header (only something that stands in front of them can set it), pass on `traceparent` as any
//! traced program does, and reach each other by plain names through `HTTP_PROXY`. Everything else is the client.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

mod catalog;
mod client;
mod events;
mod inventory;
mod orders;
mod pricing;
mod quote;
mod service;
mod ticker;
mod wire;

use std::process::ExitCode;

/// What the programs end with when they fail.
type Error = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "\
usage: bookshop <catalog|orders|inventory|pricing|ticker> --port PORT
       bookshop price BOOK | prices | reprice BOOK CENTS | watch BOOK
                --shop HOST:PORT --ca FILE [--token TOKEN] [--updates N]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match port(&arguments) {
        Some((name, port)) => serve(name, port),
        None => client::Client::parse(&arguments).map(client::Client::run),
    };
    match done {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("bookshop: {error}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The service that is to be run, and its port.
fn port(arguments: &[String]) -> Option<(&str, u16)> {
    match arguments {
        [name, flag, port] if flag == "--port" => Some((name, port.parse().ok()?)),
        _ => None,
    }
}

/// Runs a service until the process ends; `None` if there is none of that name.
fn serve(name: &str, port: u16) -> Option<Result<(), Error>> {
    println!("bookshop {name}: 127.0.0.1:{port}");
    Some(match name {
        "catalog" => service::serve(port, &catalog::Catalog),
        "orders" => service::serve(port, &orders::Orders::default()),
        "inventory" => service::serve(port, &inventory::Inventory::default()),
        "pricing" => pricing::serve(port),
        "ticker" => ticker::serve(port),
        _ => return None,
    })
}
