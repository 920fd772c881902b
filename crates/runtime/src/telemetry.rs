//! Logs: to standard error, for people or for machines.

use std::io::{self, IsTerminal};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{
    EnvFilter, filter::ParseError, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line; colours on a terminal unless `NO_COLOR` is set.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// A log filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{filter}` is not a log filter; give a level (error, warn, info, debug, trace) or directives such as \
     `info,testudo_dataplane=debug`"
)]
pub struct InvalidLogFilter {
    filter: String,
    source: ParseError,
}

/// Sends logs to standard error from here on. `filter` is a level or a list of `target=level` directives.
///
/// Secrets cannot get into a line: they live in `model::Redacted`, which prints `<redacted>`. Control
/// characters in values are escaped by both formats, so a line is always one line.
///
/// # Errors
/// When `filter` cannot be read. A second call changes nothing.
pub fn init_tracing(format: LogFormat, filter: &str) -> Result<(), InvalidLogFilter> {
    let filter = parse_filter(filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    // A process has one subscriber: the first. In tests and in `up` a second role starts in the same process.
    let _already_set = match format {
        LogFormat::Human => {
            let lines = fmt::layer().with_writer(io::stderr);
            let lines = if io::stderr().is_terminal() {
                lines
            } else {
                lines.with_ansi(false)
            };
            registry.with(lines).try_init()
        }
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(io::stderr),
            )
            .try_init(),
    };
    Ok(())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, InvalidLogFilter> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| InvalidLogFilter {
            filter: filter.chars().take(200).collect(),
            source,
        })
}

/// Whether `filter` can be read, for the fleet file's check.
pub(crate) fn check_filter(filter: &str) -> Result<(), InvalidLogFilter> {
    parse_filter(filter).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_checked_before_anything_starts() {
        assert!(check_filter("info").is_ok());
        assert!(check_filter("warn,testudo_dataplane=debug").is_ok());
        let error = check_filter("testudo=lots").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`testudo=lots` is not a log filter")
        );
    }

    #[test]
    fn starting_twice_is_harmless() {
        init_tracing(LogFormat::Json, "off").unwrap();
        init_tracing(LogFormat::Human, "off").unwrap();
    }
}
