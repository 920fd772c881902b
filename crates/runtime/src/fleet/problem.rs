//! What is wrong with a fleet file, in a form that people can act on.

use std::{fmt, ops::Range};

use super::document::Place;

/// Most problems listed at once. A file with more has one cause.
pub(super) const MAX_PROBLEMS: usize = 100;
/// Longest piece of a source line shown.
const MAX_EXCERPT_CHARS: usize = 160;

/// Whether a problem stops the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted; somebody should look.
    Warning,
}

/// One problem: what, where, why, how to fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether it stops the fleet.
    pub severity: Severity,
    /// Stable code; its explanation is in `docs/errors`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub location: Location,
    /// Why that is a problem.
    pub why: Option<String>,
    /// How to fix it.
    pub help: Option<String>,
}

/// Where a problem is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In the text of a file.
    Text {
        /// File as named by the user.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The line.
        excerpt: Excerpt,
    },
    /// A file as a whole.
    File {
        /// File as named by the user.
        file: String,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// A command-line flag.
    Flag {
        /// The flag.
        flag: String,
    },
}

/// The part of a line that is shown, without what may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// The text.
    pub text: String,
    /// Characters before the caret.
    pub indent: usize,
    /// Characters to underline, at least 1.
    pub width: usize,
}

/// Everything that is wrong with a fleet file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetErrors {
    /// The problems, errors and warnings, in the order of the file.
    pub problems: Vec<Problem>,
}

impl std::error::Error for FleetErrors {}

impl fmt::Display for FleetErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(formatter, "{problem}")?;
        }
        let errors = self
            .problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .count();
        write!(
            formatter,
            "{errors} error{}",
            if errors == 1 { "" } else { "s" }
        )?;
        if self.problems.len() >= MAX_PROBLEMS {
            write!(
                formatter,
                " (no more than {MAX_PROBLEMS} problems are listed)"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let gutter = match &self.location {
            Location::Text { line, .. } => line.to_string().len(),
            _ => 1,
        };
        let margin = " ".repeat(gutter);
        writeln!(formatter, "{severity}[{}]: {}", self.code, self.message)?;
        writeln!(formatter, "{margin}--> {}", self.location)?;
        if let Location::Text { line, excerpt, .. } = &self.location {
            let (indent, carets) = (" ".repeat(excerpt.indent), "^".repeat(excerpt.width));
            writeln!(formatter, "{margin} |")?;
            writeln!(formatter, "{line} | {}", excerpt.text)?;
            writeln!(formatter, "{margin} | {indent}{carets}")?;
        }
        if let Some(why) = &self.why {
            writeln!(formatter, "{margin} = why: {why}")?;
        }
        if let Some(help) = &self.help {
            writeln!(formatter, "{margin} = help: {help}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text {
                file, line, column, ..
            } => write!(formatter, "{file}:{line}:{column}"),
            Self::File { file } => formatter.write_str(file),
            Self::Environment { name } => write!(formatter, "environment variable {name}"),
            Self::Flag { flag } => write!(formatter, "flag {flag}"),
        }
    }
}

impl Problem {
    /// Adds why it is a problem.
    pub(super) fn why(&mut self, why: impl Into<String>) -> &mut Self {
        self.why = Some(why.into());
        self
    }

    /// Adds how to fix it.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }
}

/// The text of a file, for showing lines of it.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    text: &'a str,
    /// The first byte of every line.
    line_starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(after_breaks).collect();
        Self {
            name,
            text,
            line_starts,
        }
    }

    /// The line, from 1, of a byte of the text.
    pub(super) fn line(&self, byte: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= byte)
    }

    /// A line, from 1, without its end.
    fn text_of(&self, line: usize) -> &'a str {
        let start = self
            .line_starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let rest = self.text.get(start..).unwrap_or("");
        rest.split('\n').next().unwrap_or("").trim_end_matches('\r')
    }

    /// A place in words: `in line 12`.
    pub(super) fn line_of(&self, place: &Place) -> String {
        match place {
            Place::File(span) => format!("in line {}", self.line(span.start)),
            Place::Environment(name) => format!("from the environment variable {name}"),
            Place::Flag(flag) => format!("from {flag}"),
        }
    }

    fn locate(&self, span: &Range<usize>) -> Location {
        let line = self.line(span.start);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..span.start).unwrap_or("");
        let column = before.chars().count() + 1;
        let whole = self.text_of(line);
        let spanned = self.text.get(span.clone()).unwrap_or("");
        let width = spanned
            .split('\n')
            .next()
            .map_or(0, |first| first.chars().count());
        let excerpt = Excerpt::new(&without_secret(whole), column - 1, width);
        Location::Text {
            file: self.name.to_owned(),
            line,
            column,
            excerpt,
        }
    }
}

impl Excerpt {
    /// Shows `line` around the character `at`.
    fn new(line: &str, at: usize, width: usize) -> Self {
        let is_long = line.chars().count() > MAX_EXCERPT_CHARS;
        let skipped = if is_long {
            at.saturating_sub(MAX_EXCERPT_CHARS / 2)
        } else {
            0
        };
        // A tab would put the caret elsewhere, a control character might do anything.
        let harmless = |character: char| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        };
        let text: String = line
            .chars()
            .skip(skipped)
            .take(MAX_EXCERPT_CHARS)
            .map(harmless)
            .collect();
        let shown = text.chars().count();
        // What was blotted out is pointed at from the end of what is left.
        let indent = (at - skipped).min(shown);
        Self {
            width: width.clamp(1, (shown - indent).max(1)),
            indent,
            text,
        }
    }
}

/// Keys whose values may be secrets, and what such keys are like in the environment of a program.
const SECRET_KEYS: [&str; 6] = ["password", "secret", "hash", "token", "key", "credential"];

/// A line without what follows a key that is, or may be a misspelling of, that of a secret: what is shown may end
/// in a build log.
fn without_secret(line: &str) -> String {
    let mut shown = String::new();
    for part in line.split_inclusive('=') {
        shown.push_str(part);
        let is_bare =
            |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
        let key = part.trim_end_matches(['=', ' ', '\t', '"', '\'']);
        let key = key
            .rsplit(|character| !is_bare(character))
            .next()
            .unwrap_or("")
            .to_ascii_lowercase();
        let is_secret = SECRET_KEYS.iter().any(|known| key.contains(known))
            || nearest(&key, SECRET_KEYS).is_some();
        if is_secret && part.ends_with('=') {
            shown.push_str(" …");
            break;
        }
    }
    shown
}

/// Collects problems.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    pub(super) source: Source<'a>,
    found: Vec<(usize, Problem)>,
}

impl<'a> Problems<'a> {
    pub(super) const fn new(source: Source<'a>) -> Self {
        Self {
            source,
            found: Vec::new(),
        }
    }

    pub(super) fn error(
        &mut self,
        code: &'static str,
        place: &Place,
        message: impl Into<String>,
    ) -> &mut Problem {
        self.push(Severity::Error, code, place, message.into())
    }

    pub(super) fn warn(
        &mut self,
        code: &'static str,
        place: &Place,
        message: impl Into<String>,
    ) -> &mut Problem {
        self.push(Severity::Warning, code, place, message.into())
    }

    fn push(
        &mut self,
        severity: Severity,
        code: &'static str,
        place: &Place,
        message: String,
    ) -> &mut Problem {
        let (order, location) = match place {
            Place::File(span) => (span.start, self.source.locate(span)),
            Place::Environment(name) => (usize::MAX, Location::Environment { name: name.clone() }),
            Place::Flag(flag) => (usize::MAX, Location::Flag { flag: flag.clone() }),
        };
        let problem = Problem {
            severity,
            code,
            message,
            location,
            why: None,
            help: None,
        };
        &mut self.found.push_mut((order, problem)).1
    }

    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= MAX_PROBLEMS
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found
            .iter()
            .any(|(_, problem)| problem.severity == Severity::Error)
    }

    /// The problems in the order of the file.
    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|(order, _)| *order);
        self.found.truncate(MAX_PROBLEMS);
        self.found.into_iter().map(|(_, problem)| problem).collect()
    }
}

/// The known name that is most like `name`, if any is like it at all.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(name.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a`, `a and b`, `a, b and c`, each in backticks.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(text: &str, span: Range<usize>) -> String {
        let mut problems = Problems::new(Source::new("fleet.toml", text));
        problems.error("fleet.example", &Place::File(span), "something is wrong");
        problems.into_sorted().pop().unwrap().to_string()
    }

    #[test]
    fn a_problem_shows_the_line_and_points_at_the_place() {
        insta::assert_snapshot!(show("a = 1\n\tbé = true\n", 13..17), @r"
        error[fleet.example]: something is wrong
         --> fleet.toml:2:7
          |
        2 |  bé = true
          |       ^^^^
        ");
    }

    #[test]
    fn a_line_with_a_secret_is_shown_without_it() {
        let shown = show("passwrd = \"hunter2\"\n", 10..19);
        assert!(!shown.contains("hunter2"), "{shown}");
        let shown = show("alice = { password = { hash = \"$argon2id$x\" } }", 30..43);
        assert!(!shown.contains("argon2id"), "{shown}");
    }

    #[test]
    fn a_line_that_only_mentions_a_secret_is_shown() {
        let line = "operation = \"tokens.list\" # no password";
        assert_eq!(without_secret(line), line);
        assert_eq!(
            without_secret("env = { API_KEY = \"x\" }"),
            "env = { API_KEY = …"
        );
        assert_eq!(without_secret("\"pasword\" = 'x'"), "\"pasword\" = …");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}here{}", "x".repeat(5000), "y".repeat(5000));
        let shown = show(&text, 5000..5004);
        assert!(shown.len() < 700, "{shown}");
        assert!(shown.contains("here"));
    }

    #[test]
    fn names_that_are_alike_are_suggested() {
        assert_eq!(nearest("upstrem", ["upstream", "routes"]), Some("upstream"));
        assert_eq!(
            nearest("trustdomain", ["trust_domain", "listen"]),
            Some("trust_domain")
        );
        assert_eq!(nearest("xyz", ["upstream", "routes"]), None);
    }

    proptest! {
        #[test]
        fn any_span_of_any_text_can_be_shown(text in "\\PC{0,20}\n?[\\x00-\\x7f]{0,300}", start in 0_usize..400, length in 0_usize..400) {
            let _ = show(&text, start..start + length);
        }
    }
}
