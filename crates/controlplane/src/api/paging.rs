//! Lists in pages.

use serde::Deserialize;
use serde_json::{Value, json};
use testudo_identity::AdminError;
use testudo_store::{Cursor, Page, Versioned};

use super::users::refusal;
use crate::http::Refusal;

/// Rows of a page at most.
const MAX_PAGE: usize = 1000;
/// Longest text to look for.
const MAX_FILTER_BYTES: usize = 256;

/// `?limit=…&after=…&filter=…`.
#[derive(Deserialize)]
pub struct Paging {
    #[serde(default = "default_limit")]
    limit: usize,
    after: Option<String>,
    /// What one of the names must have in it, whatever its case.
    filter: Option<String>,
}

const fn default_limit() -> usize {
    100
}

impl Paging {
    /// Rows wanted.
    pub fn limit(&self) -> usize {
        self.limit.clamp(1, MAX_PAGE)
    }

    /// The text where the page before ended.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// Whether a row with these names is wanted.
    pub fn wants(&self, names: &[&str]) -> bool {
        self.filter.as_deref().is_none_or(|filter| {
            let filter = filter.to_lowercase();
            names
                .iter()
                .any(|name| name.to_lowercase().contains(&filter))
        })
    }

    /// The page of records that `read` gives, as far as they are wanted.
    pub fn page<R>(
        &self,
        read: impl Fn(Option<Cursor>, usize) -> Result<Page<R>, AdminError>,
        wanted: impl Fn(&R) -> bool,
        view: impl Fn(&Versioned<R>) -> Value,
    ) -> Result<Value, Refusal> {
        self.check()?;
        let after = self.after.as_deref().map(str::parse::<Cursor>).transpose();
        let mut next =
            after.map_err(|_| Refusal::bad_request("`after` is the `next` of the page before"))?;
        let mut items: Vec<Value> = Vec::new();
        loop {
            // No more than there is room for: the page ends behind what is shown last.
            let page = read(next, self.limit() - items.len()).map_err(|error| refusal(&error))?;
            let found = page.items.iter().filter(|found| wanted(&found.record));
            items.extend(found.map(&view));
            next = page.next;
            if next.is_none() || items.len() >= self.limit() {
                let next = next.map(|cursor| cursor.to_string());
                return Ok(json!({ "items": items, "next": next }));
            }
        }
    }

    /// The page of what is in memory whole, each known by a name that `name` gives.
    pub fn page_of<R>(
        &self,
        all: &[R],
        name: impl Fn(&R) -> String,
        view: impl Fn(&R) -> Value,
    ) -> Result<Value, Refusal> {
        self.check()?;
        let begin = match &self.after {
            None => 0,
            Some(after) => {
                let last = all.iter().position(|row| name(row) == *after);
                let last = last.ok_or_else(|| {
                    Refusal::bad_request("`after` is the `next` of the page before")
                })?;
                last + 1
            }
        };
        let wanted = all
            .iter()
            .skip(begin)
            .filter(|row| self.wants(&[&name(row)]));
        let rows: Vec<&R> = wanted.take(self.limit() + 1).collect();
        let shown = rows.get(..self.limit()).unwrap_or(&rows);
        let next = (rows.len() > shown.len()).then(|| shown.last().map(|row| name(row)));
        let items: Vec<Value> = shown.iter().map(|row| view(row)).collect();
        Ok(json!({ "items": items, "next": next.flatten() }))
    }

    /// Refuses what nobody can be looking for.
    pub fn check(&self) -> Result<(), Refusal> {
        let length = self.filter.as_deref().map_or(0, str::len);
        if length > MAX_FILTER_BYTES {
            let why = format!("`filter` has {length} bytes, {MAX_FILTER_BYTES} are allowed");
            return Err(Refusal::bad_request(why));
        }
        Ok(())
    }
}
