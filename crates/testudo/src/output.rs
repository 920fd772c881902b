//! Standard output is data: text for people, JSON for programs. Talk goes to standard error.
//!
//! As JSON, a list is an array of objects, a change is what was changed, and a stream is one object a line.

use std::io::{self, Write};

use serde_json::Value;

use crate::cli::OutputFormat;

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: OutputFormat,
}

impl Output {
    /// Results in `format`.
    pub const fn new(format: OutputFormat) -> Self {
        Self { format }
    }

    /// Whether results are for programs.
    pub fn is_json(self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Prints `value` as JSON, or what `text` makes of it.
    pub fn value(self, value: &Value, text: impl FnOnce(&Value) -> String) -> io::Result<()> {
        let printed = if self.is_json() {
            format!("{value:#}")
        } else {
            text(value)
        };
        self.line(printed.trim_end())
    }

    /// Prints the `items` of a page of a list: a JSON array, or what `text` makes of the page. How to go on is talk.
    pub fn list(self, page: &Value, text: impl FnOnce(&Value) -> String) -> io::Result<()> {
        let items = page
            .get("items")
            .cloned()
            .unwrap_or_else(|| Value::Array(Vec::new()));
        self.value(&items, |_| text(page))?;
        let next = field(page, "/next");
        if !next.is_empty() {
            say(format!("there are more: --after {next}"));
        }
        Ok(())
    }

    /// Prints what a change answered as JSON, or says that it is done.
    pub fn done(self, answer: &Value, text: impl AsRef<str>) -> io::Result<()> {
        if self.is_json() {
            return self.value(answer, |_| String::new());
        }
        say(text);
        Ok(())
    }

    /// Prints one item of a stream: a line of JSON, or what `text` makes of it.
    pub fn item(self, value: &Value, text: impl FnOnce(&Value) -> String) -> io::Result<()> {
        let printed = if self.is_json() {
            value.to_string()
        } else {
            text(value)
        };
        self.line(printed.trim_end())
    }

    /// Prints a line.
    pub fn line(self, line: impl AsRef<str>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", line.as_ref())?;
        out.flush()
    }
}

/// Prints a line of talk to standard error.
pub fn say(line: impl AsRef<str>) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
}

/// Aligns rows under a header, two spaces apart. Nothing is cut.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![render(&mut header.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| render(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

/// A field of a JSON object as text; empty if it is not there.
pub fn field(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let texts: Vec<String> = items.iter().map(|item| field(item, "")).collect();
            texts.join(",")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_cut_nothing() {
        let rows = vec![
            vec!["a".to_owned(), "long value".to_owned()],
            vec!["bcd".to_owned(), String::new()],
        ];
        insta::assert_snapshot!(table(&["id", "name"], &rows), @r"
        id   name
        a    long value
        bcd
        ");
    }
}
