//! The catalogue: open to everybody, except what asks the inventory.

use serde_json::json;

use crate::service::{Answer, Call, Service, call_service};

const BOOKS: &[(&str, &str, &str)] = &[
    ("1", "The Mezzanine", "Nicholson Baker"),
    ("2", "Invisible Cities", "Italo Calvino"),
    ("3", "The Left Hand of Darkness", "Ursula K. Le Guin"),
];

/// The catalogue.
pub struct Catalog;

impl Service for Catalog {
    fn answer(&self, call: &Call) -> Answer {
        match call.route() {
            ("GET", path) if path == ["books"] => {
                let books: Vec<_> = BOOKS
                    .iter()
                    .map(|(id, title, _)| json!({ "id": id, "title": title }))
                    .collect();
                Answer(200, json!(books))
            }
            ("GET", path) => match path.as_slice() {
                ["books", id] => BOOKS.iter().find(|book| book.0 == *id).map_or_else(
                    Answer::not_found,
                    |(id, title, author)| {
                        Answer(200, json!({ "id": id, "title": title, "author": author }))
                    },
                ),
                ["books", id, "stock"] => {
                    call_service(call, "GET", &format!("http://inventory/stock/{id}"))
                }
                _ => Answer::not_found(),
            },
            // Nothing in the catalogue should reserve stock. That it tries is the point: the inventory's
            // sidecar refuses the catalogue whatever the user may do.
            ("POST", path) => match path.as_slice() {
                ["books", id, "reserve"] => call_service(
                    call,
                    "POST",
                    &format!("http://inventory/stock/{id}/reserve"),
                ),
                _ => Answer::not_found(),
            },
            _ => Answer(405, json!({ "error": "method not allowed" })),
        }
    }
}
