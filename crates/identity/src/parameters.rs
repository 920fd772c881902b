//! Parameters of an OAuth request: a query string or a form body.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
};

use url::form_urlencoded;

use crate::limits::{MAX_FORM_BYTES, MAX_PARAMETERS};

/// Why a query or form is refused before anybody looks at its parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// Longer than [`MAX_FORM_BYTES`].
    #[error("the parameters have {bytes} bytes, {MAX_FORM_BYTES} are allowed")]
    TooLong {
        /// Bytes given.
        bytes: usize,
    },
    /// More than [`MAX_PARAMETERS`].
    #[error("there are more than {MAX_PARAMETERS} parameters")]
    TooMany,
}

/// Where a token shall be used (RFC 8707).
const RESOURCE: &str = "resource";

/// Decoded parameters. `Debug` shows names alone: values are codes, tokens and passwords.
#[derive(Clone, Default)]
pub struct Parameters {
    values: BTreeMap<String, String>,
    repeated: BTreeSet<String>,
}

impl Parameters {
    /// Decodes `application/x-www-form-urlencoded` text.
    ///
    /// # Errors
    /// Too long or too many; any other text has a meaning.
    pub fn parse(encoded: &str) -> Result<Self, ParameterError> {
        if encoded.len() > MAX_FORM_BYTES {
            return Err(ParameterError::TooLong {
                bytes: encoded.len(),
            });
        }
        Self::from_pairs(form_urlencoded::parse(encoded.as_bytes()))
    }

    /// From decoded pairs. A parameter without a value is an omitted one (RFC 6749 section 3.1).
    ///
    /// # Errors
    /// Too many.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ParameterError> {
        let mut parameters = Self::default();
        for (count, (name, value)) in pairs.into_iter().enumerate() {
            if count >= MAX_PARAMETERS {
                return Err(ParameterError::TooMany);
            }
            let (name, value) = (name.into(), value.into());
            if value.is_empty() {
                continue;
            }
            match parameters.values.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(entry) => {
                    parameters.repeated.insert(entry.key().clone());
                }
            }
        }
        Ok(parameters)
    }

    /// The value of `name`, the first if it is repeated.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether `name` is there more than once, which RFC 6749 section 3.1 forbids.
    pub fn is_repeated(&self, name: &str) -> bool {
        self.repeated.contains(name)
    }

    /// A parameter that is there more than once and must not be: all but `resource` (RFC 8707 section 2).
    pub fn first_repeated(&self) -> Option<&str> {
        let mut repeated = self.repeated.iter().map(String::as_str);
        repeated.find(|name| *name != RESOURCE)
    }

    /// Whether the resource asked for, if any, is `audience` (RFC 8707). A token has one audience: to ask for several
    /// is to ask for more than can be had.
    pub(crate) fn ask_for(&self, audience: &str) -> bool {
        !self.is_repeated(RESOURCE) && self.get(RESOURCE).is_none_or(|asked| asked == audience)
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.values.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_value_is_an_omitted_parameter_and_a_second_one_is_noticed() {
        let parameters = Parameters::parse("a=1&b=&c=x%20y&a=2").unwrap();
        assert_eq!(parameters.get("a"), Some("1"));
        assert_eq!(parameters.get("b"), None);
        assert_eq!(parameters.get("c"), Some("x y"));
        assert!(parameters.is_repeated("a"));
        assert_eq!(parameters.first_repeated(), Some("a"));
    }

    #[test]
    fn limits_hold() {
        let long = format!("a={}", "x".repeat(MAX_FORM_BYTES));
        assert!(matches!(
            Parameters::parse(&long),
            Err(ParameterError::TooLong { .. })
        ));
        let many: String = (0..=MAX_PARAMETERS).map(|n| format!("p{n}=1&")).collect();
        assert_eq!(
            Parameters::parse(&many).unwrap_err(),
            ParameterError::TooMany
        );
    }

    #[test]
    fn debug_output_shows_no_value() {
        let parameters = Parameters::parse("password=hunter2").unwrap();
        assert_eq!(format!("{parameters:?}"), r#"{"password"}"#);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_a_crash(text in "\\PC{0,200}") {
            let _ = Parameters::parse(&text);
        }
    }
}
