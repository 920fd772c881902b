//! The orders: each user sees their own.

use std::{sync::Mutex, thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    events::{Event, Events},
    quote,
    service::{Answer, Call, Service, call_service},
};

/// What happens to an order.
const PROGRESS: [&str; 3] = ["packed", "shipped", "delivered"];
/// How long each of it takes.
const STEP: Duration = Duration::from_secs(1);

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
                ["orders", id] => self
                    .order(user, id)
                    .map_or_else(Answer::not_found, |order| Answer(200, order)),
                _ => Answer::not_found(),
            },
            ("POST", path) if path == ["orders"] => self.create(call, user),
            _ => Answer(405, json!({ "error": "method not allowed" })),
        }
    }

    fn events(&self, call: &Call) -> Option<Events> {
        let (method, path) = call.route();
        let ("GET", ["orders", id, "progress"]) = (method, path.as_slice()) else {
            return None;
        };
        let order = self.order(call.user.as_ref()?, id)?;
        let steps = PROGRESS.into_iter().map(move |name| {
            thread::sleep(STEP);
            let data = order.clone();
            Event { name, data }
        });
        Some(Box::new(steps))
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

    fn order(&self, user: &str, id: &str) -> Option<Value> {
        let mut orders = self.of(user).into_iter();
        orders.find(|order| order.get("id").is_some_and(|value| value == id))
    }

    fn create(&self, call: &Call, user: &str) -> Answer {
        let Some(book) = call.body.get("book").and_then(Value::as_str) else {
            return Answer(400, json!({ "error": "say {\"book\": \"ID\"}" }));
        };
        if !book.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Answer(400, json!({ "error": "a book id is letters and digits" }));
        }
        let cents = match quote::cents(call, book) {
            Ok(cents) => cents,
            Err(answer) => return answer,
        };
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
        let order = json!({ "id": (orders.len() + 1).to_string(), "book": book, "cents": cents });
        orders.push((user.to_owned(), order.clone()));
        Answer(201, order)
    }
}
