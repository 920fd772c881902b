//! What is wrong with a policy set, said so that it can be fixed.

use std::fmt;

use testudo_model::snapshot::PolicyFile;

/// Longest piece of a source line shown, in characters.
const MAX_EXCERPT: usize = 160;

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Place {
    /// File as named in the snapshot, or `<guardrails>`.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Whether a problem keeps a policy set from being activated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but somebody should look.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong. `{}` says it in a line or two, `{:#}` shows the line of the file too.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PolicyProblem {
    /// Where; absent when it is about the directory and no file.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// Stable code, e.g. `policy.unknown_attribute`.
    pub code: &'static str,
    /// How bad.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// How to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The line of the file.
    #[serde(rename = "source", skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<Box<Excerpt>>,
}

/// The part of a line that is shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Excerpt {
    /// The text.
    pub text: String,
    /// Characters before the caret.
    #[serde(skip)]
    pub indent: usize,
}

impl Excerpt {
    /// The line of `place` around its column.
    fn of(text: &str, place: &Place) -> Option<Self> {
        let before = |number: u32| usize::try_from(number.saturating_sub(1)).ok();
        let (line, column) = (before(place.line)?, before(place.column)?);
        let line = text.lines().nth(line)?;
        let skipped = if line.chars().count() > MAX_EXCERPT {
            column.saturating_sub(MAX_EXCERPT / 2)
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
        let shown = line.chars().skip(skipped).take(MAX_EXCERPT);
        Some(Self {
            text: shown.map(harmless).collect(),
            indent: column - skipped,
        })
    }
}

impl PolicyProblem {
    pub(crate) fn error(
        place: Option<Place>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            place,
            code,
            severity: Severity::Error,
            message: message.into(),
            help: None,
            excerpt: None,
        }
    }

    pub(crate) fn warning(
        place: Option<Place>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, code, message)
        }
    }

    #[must_use]
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Looks its line up in the file it is about.
    pub(crate) fn show_line(&mut self, files: &[PolicyFile]) {
        if let Some(place) = &self.place {
            let file = files.iter().find(|file| file.name == place.file);
            self.excerpt = file
                .and_then(|file| Excerpt::of(&file.text, place))
                .map(Box::new);
        }
    }

    /// As a compiler says it: what, where, the line, how to fix it.
    fn with_line(
        &self,
        formatter: &mut fmt::Formatter<'_>,
        place: &Place,
        excerpt: &Excerpt,
    ) -> fmt::Result {
        let line = place.line.to_string();
        let margin = " ".repeat(line.len());
        writeln!(
            formatter,
            "{}[{}]: {}",
            self.severity, self.code, self.message
        )?;
        writeln!(formatter, "{margin}--> {place}")?;
        writeln!(formatter, "{margin} |")?;
        writeln!(formatter, "{line} | {}", excerpt.text)?;
        write!(formatter, "{margin} | {}^", " ".repeat(excerpt.indent))?;
        match &self.help {
            Some(help) => write!(formatter, "\n{margin} = help: {help}"),
            None => Ok(()),
        }
    }

    /// Whether it keeps the set from being activated.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (true, Some(place), Some(excerpt)) =
            (formatter.alternate(), &self.place, &self.excerpt)
        {
            return self.with_line(formatter, place, excerpt);
        }
        if let Some(place) = &self.place {
            write!(formatter, "{place}: ")?;
        }
        write!(
            formatter,
            "{}[{}]: {}",
            self.severity, self.code, self.message
        )?;
        match &self.help {
            Some(help) => write!(formatter, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// Why a policy set is not activated: every error, not only the first. Never empty. `{:#}` shows the lines too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyErrors(Vec<PolicyProblem>);

impl PolicyErrors {
    pub(crate) const fn new(problems: Vec<PolicyProblem>) -> Self {
        Self(problems)
    }

    /// The problems, warnings included, by file and line.
    pub fn problems(&self) -> &[PolicyProblem] {
        &self.0
    }
}

impl From<PolicyProblem> for PolicyErrors {
    fn from(problem: PolicyProblem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                formatter.write_str("\n")?;
            }
            fmt::Display::fmt(problem, formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}
