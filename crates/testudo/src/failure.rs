//! How a command fails: what is printed, and the exit code that scripts read.

use std::{error::Error, fmt, io, path::Path};

use testudo_controlplane::client::{ConnectionError, LoginError};
use testudo_runtime::causes;

/// Exit codes, the same for all commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something failed.
    Failed = 1,
    /// The named thing does not exist.
    NotFound = 3,
    /// Not logged in, or not allowed.
    Denied = 4,
    /// Somebody else changed it, or it exists already.
    Conflict = 5,
    /// A check, test or verification failed.
    CheckFailed = 6,
    /// The control plane cannot be reached.
    Unreachable = 7,
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    /// What failed, with its causes.
    pub error: Box<dyn Error + Send + Sync>,
    /// How to fix it.
    pub help: Option<String>,
}

impl Failure {
    /// A failure with an exit code.
    pub fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            exit,
            error: error.into(),
            help: None,
        }
    }

    /// A file that cannot be read or written.
    pub fn of_file(action: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(
            Exit::Failed,
            format!("cannot {action} {}: {error}", path.display()),
        )
    }

    /// Whether it is only that nobody reads the output any more (`testudo … | head`).
    pub fn is_broken_pipe(&self) -> bool {
        let error = self.error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Adds how to fix it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// `error: …`, then `because: …` for each cause, then `help: …`.
impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.error.to_string();
        // Problems of fleet files and policies bring their own heads, one each.
        let head = if text.starts_with("error[") || text.starts_with("warning[") {
            ""
        } else {
            "error: "
        };
        write!(formatter, "{head}{text}")?;
        for cause in causes(&*self.error) {
            write!(formatter, "\n  because: {cause}")?;
        }
        if let Some(help) = &self.help {
            write!(formatter, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let error: Box<dyn Error + Send + Sync> = Box::new(error);
        let exit = match error.downcast_ref::<ConnectionError>() {
            Some(connection) => exit_of(connection),
            None => match error.downcast_ref::<LoginError>() {
                Some(LoginError::Connection(connection)) => exit_of(connection),
                Some(_) => Exit::Denied,
                None => Exit::Failed,
            },
        };
        let help = (exit == Exit::Denied).then(|| "log in with `testudo login`".to_owned());
        Self { exit, error, help }
    }
}

fn exit_of(error: &ConnectionError) -> Exit {
    match error {
        ConnectionError::Unreachable { .. } | ConnectionError::Timeout => Exit::Unreachable,
        ConnectionError::Problem(problem) => match problem.status {
            401 | 403 => Exit::Denied,
            404 => Exit::NotFound,
            409 | 412 => Exit::Conflict,
            422 => Exit::CheckFailed,
            _ => Exit::Failed,
        },
        _ => Exit::Failed,
    }
}

/// What a command returns.
pub type Outcome = Result<(), Failure>;
