//! What an error says together with its causes.
//!
//! An error's own text leaves its source out, so that nobody says it twice; whoever shows the error to a person
//! adds the sources here.

use std::{error::Error, iter};

/// The causes of `error`, the nearest first.
pub fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(error.source(), |&cause| cause.source())
}

/// `error` with its causes on one line: `what failed: why: why that`. A cause that says nothing new (some
/// libraries repeat their source) is left out.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failed {
        text: &'static str,
        source: Option<Box<Failed>>,
    }

    fn failed(texts: &[&'static str]) -> Option<Box<Failed>> {
        let (text, rest) = texts.split_first()?;
        let source = failed(rest);
        Some(Box::new(Failed { text, source }))
    }

    #[test]
    fn every_cause_is_told_once_from_the_outside_in() {
        for (texts, line) in [
            (&["no start"][..], "no start"),
            (
                &["no start", "store damaged", "disk on fire"],
                "no start: store damaged: disk on fire",
            ),
            (
                &["no start: disk on fire", "disk on fire", "smoke"],
                "no start: disk on fire: smoke",
            ),
        ] {
            let error = failed(texts).unwrap();
            assert_eq!(with_causes(&*error), line);
            assert_eq!(causes(&*error).count(), texts.len() - 1);
        }
    }
}
