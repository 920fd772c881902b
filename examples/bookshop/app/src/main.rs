//! The services of the example fleet: three small HTTP programs that know nothing of Testudo.
//!
//! `bookshop <catalog|orders|inventory> --port PORT`. They listen on loopback, trust the `X-User-Id` header
//! (only something that stands in front of them can set it), pass on `traceparent` as any traced program does,
//! and reach each other by plain names through `HTTP_PROXY`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

mod catalog;
mod inventory;
mod orders;
mod service;

use std::process::ExitCode;

const USAGE: &str = "usage: bookshop <catalog|orders|inventory> --port PORT";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, flag, port] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let (true, Ok(port)) = (flag == "--port", port.parse::<u16>()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let served = match name.as_str() {
        "catalog" => service::serve(name, port, &catalog::Catalog),
        "orders" => service::serve(name, port, &orders::Orders::default()),
        "inventory" => service::serve(name, port, &inventory::Inventory::default()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bookshop {name}: {error}");
            ExitCode::FAILURE
        }
    }
}
