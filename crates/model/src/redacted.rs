//! Values that must never be printed.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A secret. It has no `Display` and no `Serialize`, and its `Debug` prints `<redacted>`, so it cannot
/// reach a log, an event or an answer by accident. [`Redacted::expose`] is the one way in: grep for it.
///
/// Equality is not implemented: compare secrets in constant time, through `trust`.
#[derive(Clone, Default)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Wraps a secret.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The secret itself. The caller answers for where it goes.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// Gives the secret up to the caller.
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> From<T> for Redacted<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<redacted>")
    }
}

/// Secrets may be read from input; they are never written back.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Redacted<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::Redacted;

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let secret = Redacted::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "<redacted>");
        assert_eq!(secret.expose(), "hunter2");
    }
}
