//! The orders: each user sees their own.

use std::sync::Mutex;

use serde_json::{Value, json};

use crate::service::{Answer, Call, Service, call_service};

/// All orders as (user, order).
#[derive(Default)]
pub struct Orders(Mutex<Vec<(String, Value)>>);

impl Service for Orders {
    fn answer(&self, call: &Call) -> Answer {
        let Some(user) = &call.user else {
            return Answer(401, json!({ "error": "no user" }));
        };
        match call.route() {
            ("GET", path) if path == ["orders"] => Answer(200, json!(self.of(user))),
            ("GET", path) => match path.as_slice() {
                ["orders", id] => {
                    let mine = self.of(user).into_iter();
                    let mut found =
                        mine.filter(|order| order.get("id").is_some_and(|value| value == id));
                    found
                        .next()
                        .map_or_else(Answer::not_found, |order| Answer(200, order))
                }
                _ => Answer::not_found(),
            },
            ("POST", path) if path == ["orders"] => self.create(call, user),
            _ => Answer(405, json!({ "error": "method not allowed" })),
        }
    }
}

impl Orders {
    fn of(&self, user: &str) -> Vec<Value> {
        let orders = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        orders
            .iter()
            .filter(|(owner, _)| owner == user)
            .map(|(_, order)| order.clone())
            .collect()
    }

    fn create(&self, call: &Call, user: &str) -> Answer {
        let Some(book) = call.body.get("book").and_then(Value::as_str) else {
            return Answer(400, json!({ "error": "say {\"book\": \"ID\"}" }));
        };
        if !book.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Answer(400, json!({ "error": "a book id is letters and digits" }));
        }
        let reserved = call_service(
            call,
            "POST",
            &format!("http://inventory/stock/{book}/reserve"),
        );
        if reserved.0 != 200 {
            return reserved;
        }
        let mut orders = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let order = json!({ "id": (orders.len() + 1).to_string(), "book": book });
        orders.push((user.to_owned(), order.clone()));
        Answer(201, order)
    }
}
