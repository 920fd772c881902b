//! Search filters of directories (RFC 4515) with places for what is only known when somebody logs in.
//!
//! A place is a part of a value, never of the text: what is put there cannot become an operator, whatever characters it has.

use std::{fmt, str::FromStr};

/// Parentheses in parentheses.
const MAX_DEPTH: usize = 16;
/// Longest text.
const MAX_BYTES: usize = 4096;
/// What a value may have a place for.
const VARIABLES: [&str; 2] = ["username", "dn"];

/// A search filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LdapFilter {
    /// All hold.
    And(Vec<Self>),
    /// One holds.
    Or(Vec<Self>),
    /// It does not hold.
    Not(Box<Self>),
    /// An attribute has the value.
    Equal(String, Template),
    /// An attribute has the parts, in this order; the first and the last are at the ends unless they are empty.
    Substrings(String, Vec<Template>),
    /// An attribute is there.
    Present(String),
}

/// A value with places.
pub type Template = Vec<Part>;

/// A part of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These bytes.
    Literal(Vec<u8>),
    /// What is put here later: `username` or `dn`.
    Variable(&'static str),
}

/// Why a text is not a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidFilter(&'static str);

impl LdapFilter {
    /// Whether a value has a place for `variable`.
    pub fn has(&self, variable: &str) -> bool {
        let in_value = |value: &Template| {
            let is_it = |part: &Part| matches!(part, Part::Variable(name) if *name == variable);
            value.iter().any(is_it)
        };
        match self {
            Self::And(all) | Self::Or(all) => all.iter().any(|filter| filter.has(variable)),
            Self::Not(filter) => filter.has(variable),
            Self::Equal(_, value) => in_value(value),
            Self::Substrings(_, parts) => parts.iter().any(in_value),
            Self::Present(_) => false,
        }
    }
}

impl LdapFilter {
    /// The same for everybody: where a value has a place, the attribute must be there.
    #[must_use]
    pub fn for_everybody(&self) -> Self {
        let all = |filters: &[Self]| filters.iter().map(Self::for_everybody).collect();
        let has_place =
            |value: &Template| value.iter().any(|part| matches!(part, Part::Variable(_)));
        match self {
            Self::And(filters) => Self::And(all(filters)),
            Self::Or(filters) => Self::Or(all(filters)),
            Self::Equal(attribute, value) if has_place(value) => Self::Present(attribute.clone()),
            Self::Substrings(attribute, parts) if parts.iter().any(has_place) => {
                Self::Present(attribute.clone())
            }
            other => other.clone(),
        }
    }
}

impl FromStr for LdapFilter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        if text.len() > MAX_BYTES {
            return Err(InvalidFilter("it is longer than 4096 bytes"));
        }
        let mut parser = Parser { rest: text };
        let filter = parser.filter(0)?;
        match parser.rest {
            "" => Ok(filter),
            _ => Err(InvalidFilter("there is something behind it")),
        }
    }
}

struct Parser<'t> {
    rest: &'t str,
}

impl Parser<'_> {
    fn take(&mut self, expected: char) -> bool {
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn filter(&mut self, depth: usize) -> Result<LdapFilter, InvalidFilter> {
        if depth > MAX_DEPTH {
            return Err(InvalidFilter("it nests deeper than 16"));
        }
        if !self.take('(') {
            return Err(InvalidFilter("a filter begins with `(`"));
        }
        let filter = if self.take('&') {
            LdapFilter::And(self.list(depth)?)
        } else if self.take('|') {
            LdapFilter::Or(self.list(depth)?)
        } else if self.take('!') {
            let inner = self.filter(depth + 1)?;
            if VARIABLES.into_iter().any(|variable| inner.has(variable)) {
                return Err(InvalidFilter("there is no place in `!`"));
            }
            LdapFilter::Not(Box::new(inner))
        } else {
            self.item()?
        };
        match self.take(')') {
            true => Ok(filter),
            false => Err(InvalidFilter("a `)` is missing")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<LdapFilter>, InvalidFilter> {
        let mut all = Vec::new();
        while self.rest.starts_with('(') {
            all.push(self.filter(depth + 1)?);
        }
        match all.is_empty() {
            true => Err(InvalidFilter("`&` and `|` need a filter")),
            false => Ok(all),
        }
    }

    fn item(&mut self) -> Result<LdapFilter, InvalidFilter> {
        let end = self.rest.find(['(', ')']).unwrap_or(self.rest.len());
        let (item, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        let (attribute, value) = item
            .split_once('=')
            .ok_or(InvalidFilter("a comparison is `attribute=value`"))?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.;".contains(&byte);
        if attribute.is_empty() || !attribute.bytes().all(is_name) {
            return Err(InvalidFilter(
                "an attribute has letters, digits, `-`, `.` and `;`; only `=` compares",
            ));
        }
        let attribute = attribute.to_owned();
        if value == "*" {
            return Ok(LdapFilter::Present(attribute));
        }
        let mut parts = value
            .split('*')
            .map(template)
            .collect::<Result<Vec<_>, _>>()?;
        match parts.len() {
            1 => Ok(LdapFilter::Equal(
                attribute,
                parts.pop().unwrap_or_default(),
            )),
            _ => Ok(LdapFilter::Substrings(attribute, parts)),
        }
    }
}

/// A value: escaped bytes are `\` and two hexadecimal digits (section 3).
fn template(text: &str) -> Result<Template, InvalidFilter> {
    let mut parts = Template::new();
    let mut literal = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let behind = rest.strip_prefix(first).unwrap_or("");
        match first {
            '\\' => {
                let (digits, behind) = behind
                    .split_at_checked(2)
                    .ok_or(InvalidFilter("`\\` is followed by two digits"))?;
                let is_digit = |digit: char| digit.is_ascii_hexdigit();
                let byte = u8::from_str_radix(digits, 16).ok();
                let byte = byte.filter(|_| digits.chars().all(is_digit));
                literal.push(byte.ok_or(InvalidFilter("`\\` is followed by two digits"))?);
                rest = behind;
            }
            '{' => {
                let (name, behind) = behind
                    .split_once('}')
                    .ok_or(InvalidFilter("a `}` is missing"))?;
                let variable = VARIABLES.into_iter().find(|known| *known == name);
                let variable = variable.ok_or(InvalidFilter(
                    "there are places for `{username}` and `{dn}` alone",
                ))?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Variable(variable));
                rest = behind;
            }
            character => {
                let mut bytes = [0; 4];
                literal.extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
                rest = behind;
            }
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

impl fmt::Display for LdapFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |formatter: &mut fmt::Formatter<'_>, all: &[Self]| {
            all.iter()
                .try_for_each(|filter| write!(formatter, "{filter}"))
        };
        formatter.write_str("(")?;
        match self {
            Self::And(all) => {
                formatter.write_str("&")?;
                list(formatter, all)?;
            }
            Self::Or(all) => {
                formatter.write_str("|")?;
                list(formatter, all)?;
            }
            Self::Not(filter) => write!(formatter, "!{filter}")?,
            Self::Equal(attribute, value) => {
                write!(formatter, "{attribute}=")?;
                write_value(formatter, value)?;
            }
            Self::Substrings(attribute, parts) => {
                write!(formatter, "{attribute}=")?;
                for (index, part) in parts.iter().enumerate() {
                    if index > 0 {
                        formatter.write_str("*")?;
                    }
                    write_value(formatter, part)?;
                }
            }
            Self::Present(attribute) => write!(formatter, "{attribute}=*")?,
        }
        formatter.write_str(")")
    }
}

fn write_value(formatter: &mut fmt::Formatter<'_>, value: &Template) -> fmt::Result {
    for part in value {
        match part {
            Part::Variable(name) => write!(formatter, "{{{name}}}")?,
            Part::Literal(bytes) => {
                for byte in bytes {
                    match byte {
                        b'*' | b'(' | b')' | b'\\' | b'{' | b'}' | 0..0x20 | 0x7f.. => {
                            write!(formatter, "\\{byte:02x}")?;
                        }
                        plain => write!(formatter, "{}", char::from(*plain))?,
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn filters_are_read_and_written_again() {
        for text in [
            "(uid={username})",
            "(&(objectClass=person)(|(uid={username})(mail={username}))(!(locked=*)))",
            "(cn=*a*{username}*)",
            "(cn=\\2a\\28x\\29\\5c)",
            "(member={dn})",
            "(cn=)",
        ] {
            let filter: LdapFilter = text.parse().unwrap();
            assert_eq!(filter.to_string(), text);
        }
        let filter: LdapFilter = "(&(a=b)(!(c=d))(uid=x{username}))".parse().unwrap();
        assert!(filter.has("username") && !filter.has("dn"));
        assert_eq!(
            filter.for_everybody().to_string(),
            "(&(a=b)(!(c=d))(uid=*))"
        );
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in [
            "",
            "uid={username}",
            "(uid={username}",
            "(uid={username}))",
            "(&)",
            "(uid={user})",
            "(uid={username)",
            "(uid>=a)",
            "(uid:=a)",
            "(=a)",
            "(u id=a)",
            "(a=\\2)",
            "(a=\\+a)",
            "(a=\\é1)",
            "(a)",
            "(!(uid={username}))",
            &"(!".repeat(40),
            &format!("(a={})", "x".repeat(5000)),
        ] {
            assert!(text.parse::<LdapFilter>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[(){}&|!=*\\\\a-f0-9é]{0,40}") {
            if let Ok(filter) = text.parse::<LdapFilter>() {
                prop_assert_eq!(filter.to_string().parse::<LdapFilter>(), Ok(filter));
            }
        }
    }
}
