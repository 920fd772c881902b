//! The inventory: how many copies there are, and reserving one.

use std::{collections::BTreeMap, sync::Mutex};

use serde_json::json;

use crate::service::{Answer, Call, Service};

/// Copies by book.
pub struct Inventory(Mutex<BTreeMap<String, u64>>);

impl Default for Inventory {
    fn default() -> Self {
        Self(Mutex::new(
            [("1", 1000), ("2", 1000), ("3", 0)]
                .map(|(id, n)| (id.to_owned(), n))
                .into(),
        ))
    }
}

impl Service for Inventory {
    fn answer(&self, call: &Call) -> Answer {
        let (method, path) = call.route();
        let ["stock", id, rest @ ..] = path.as_slice() else {
            return Answer::not_found();
        };
        let mut stock = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(copies) = stock.get_mut(*id) else {
            return Answer::not_found();
        };
        match (method, rest) {
            ("GET", []) => {}
            ("POST", ["reserve"]) if *copies == 0 => {
                return Answer(409, json!({ "error": "out of stock", "book": id }));
            }
            ("POST", ["reserve"]) => *copies -= 1,
            ("PUT", []) => match call.body.get("copies").and_then(serde_json::Value::as_u64) {
                Some(wanted) => *copies = wanted,
                None => return Answer(400, json!({ "error": "say {\"copies\": N}" })),
            },
            _ => return Answer(405, json!({ "error": "method not allowed" })),
        }
        Answer(200, json!({ "book": id, "copies": copies }))
    }
}
