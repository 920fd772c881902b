//! Filters (RFC 7644 section 3.4.2.2) and the paths of changes (section 3.5.2): `emails[type eq "work"].value`.
//!
//! A filter comes from outside: its length, its depth and the number of its terms are bounded, and what it asks about is
//! checked against the schema before anything is compared.

use std::{cmp::Ordering, iter::Peekable, str::Chars};

use serde_json::Value;
use testudo_model::Timestamp;

use super::{
    error::ScimError,
    schema::{Attribute, Kind, ResourceType, Returned},
};
use crate::limits::{MAX_FILTER_BYTES, MAX_FILTER_DEPTH, MAX_FILTER_TERMS};

/// A filter that fits its schema.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    /// Something is there.
    Present(Place),
    Compare(Place, Comparison, Value),
    /// One value of an attribute matches as a whole.
    Within(&'static Attribute, Box<Filter>),
}

/// An attribute, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) attribute: &'static Attribute,
    pub(super) part: Option<&'static Attribute>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Contains,
    StartsWith,
    EndsWith,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// Where a change happens: an attribute, some of its values, or a part of either.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) attribute: &'static Attribute,
    pub(super) filter: Option<Filter>,
    pub(super) part: Option<&'static Attribute>,
}

impl Filter {
    /// Reads the filter `text` on resources of these types. An attribute must be one of at least one type.
    pub(super) fn parse(text: &str, types: &[ResourceType]) -> Result<Self, ScimError> {
        let mut parser = Parser::new(text, types)?;
        let filter = parser.any_of(0)?;
        parser.end()?;
        Ok(filter)
    }

    /// Whether `resource` matches.
    pub(super) fn matches(&self, resource: &Value) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.matches(resource)),
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(resource)),
            Self::Not(filter) => !filter.matches(resource),
            Self::Present(place) => place.values(resource).next().is_some(),
            Self::Compare(place, comparison, wanted) => {
                place.compares(resource, *comparison, wanted)
            }
            Self::Within(attribute, filter) => {
                values(resource, attribute).any(|value| filter.matches(value))
            }
        }
    }

    /// The text that `attribute` must have, if it must have one text.
    pub(super) fn demands(&self, name: &str) -> Option<&str> {
        match self {
            Self::All(filters) => filters.iter().find_map(|filter| filter.demands(name)),
            Self::Compare(place, Comparison::Equal, Value::String(text)) => {
                (place.attribute.name == name && place.part.is_none()).then_some(text)
            }
            _ => None,
        }
    }

    /// Whether the filter looks at this attribute.
    pub(super) fn asks_about(&self, name: &str) -> bool {
        match self {
            Self::All(filters) | Self::Any(filters) => {
                filters.iter().any(|filter| filter.asks_about(name))
            }
            Self::Not(filter) => filter.asks_about(name),
            Self::Present(place) | Self::Compare(place, ..) => place.attribute.name == name,
            Self::Within(attribute, _) => attribute.name == name,
        }
    }
}

impl Path {
    /// Reads the path `text` in resources of this type.
    pub(super) fn parse(text: &str, of: ResourceType) -> Result<Self, ScimError> {
        let types = [of];
        let mut parser = Parser::new(text, &types)?;
        let place = match parser.next()? {
            Some(Token::Word(word)) => parser.place(&word).map_err(as_path)?,
            _ => return Err(ScimError::path(format!("`{text}` is no path"))),
        };
        if parser.peek()? != Some(&Token::Open('[')) {
            parser.end().map_err(as_path)?;
            return Ok(Self {
                attribute: place.attribute,
                filter: None,
                part: place.part,
            });
        }
        let filter = parser.within(place, 0)?;
        let part = match parser.next()? {
            None => None,
            Some(Token::Word(word)) => Some(part_of(place.attribute, &word)?),
            Some(_) => return Err(ScimError::path(format!("`{text}` is no path"))),
        };
        parser.end().map_err(as_path)?;
        Ok(Self {
            attribute: place.attribute,
            filter: Some(filter),
            part,
        })
    }
}

/// `.value` behind a filter.
fn part_of(attribute: &'static Attribute, word: &str) -> Result<&'static Attribute, ScimError> {
    let part = word.strip_prefix('.').and_then(|name| attribute.part(name));
    part.ok_or_else(|| ScimError::path(format!("`{}` has no part `{word}`", attribute.name)))
}

/// What is wrong with a filter is wrong with a path elsewhere.
fn as_path(error: ScimError) -> ScimError {
    match error {
        ScimError::Refused { detail, .. } => ScimError::path(detail),
        fault @ ScimError::Fault(_) => fault,
    }
}

impl Place {
    /// The place `name` or `name.part` in resources of this type.
    pub(super) fn parse(text: &str, of: ResourceType) -> Result<Self, ScimError> {
        Parser::new("", &[of])?.place(text).map_err(as_path)
    }

    /// All values that are there.
    pub(super) fn values<'v>(
        &self,
        resource: &'v Value,
    ) -> Box<dyn Iterator<Item = &'v Value> + 'v> {
        let found = values(resource, self.attribute);
        match self.part {
            Some(part) => Box::new(found.flat_map(move |value| values(value, part))),
            None => Box::new(found),
        }
    }

    /// What is compared: of a complex attribute with values of its own, those.
    fn compared(&self) -> Self {
        let value = || self.attribute.part("value");
        Self {
            attribute: self.attribute,
            part: self.part.or_else(value),
        }
    }

    fn leaf(&self) -> &'static Attribute {
        self.part.unwrap_or(self.attribute)
    }

    fn compares(&self, resource: &Value, comparison: Comparison, wanted: &Value) -> bool {
        let leaf = self.leaf();
        let holds = |comparison| {
            let mut found = self.values(resource);
            found.any(|value| compares(value, comparison, wanted, leaf))
        };
        match (comparison, wanted) {
            (Comparison::Equal, Value::Null) => self.values(resource).next().is_none(),
            (Comparison::NotEqual, Value::Null) => self.values(resource).next().is_some(),
            (Comparison::NotEqual, _) => !holds(Comparison::Equal),
            _ => holds(comparison),
        }
    }
}

/// The values of an attribute: of one with many, each.
fn values<'v>(
    resource: &'v Value,
    attribute: &Attribute,
) -> impl Iterator<Item = &'v Value> + use<'v> {
    let found = resource.get(attribute.name);
    let many = found.and_then(Value::as_array).map(Vec::as_slice);
    let one = found.filter(|found| !found.is_array() && !found.is_null());
    many.unwrap_or_default().iter().chain(one)
}

fn compares(value: &Value, comparison: Comparison, wanted: &Value, leaf: &Attribute) -> bool {
    let (Some(value), Some(wanted)) = (value.as_str(), wanted.as_str()) else {
        return comparison == Comparison::Equal && value == wanted;
    };
    if let Kind::Moment = leaf.kind {
        let moments = Timestamp::parse_rfc3339(value).zip(Timestamp::parse_rfc3339(wanted));
        return moments.is_some_and(|(value, wanted)| is_so(value.cmp(&wanted), comparison));
    }
    let fold = |text: &str| match leaf.is_case_exact {
        true => text.to_owned(),
        false => text.to_lowercase(),
    };
    let (value, wanted) = (fold(value), fold(wanted));
    match comparison {
        Comparison::Contains => value.contains(&wanted),
        Comparison::StartsWith => value.starts_with(&wanted),
        Comparison::EndsWith => value.ends_with(&wanted),
        _ => is_so(value.cmp(&wanted), comparison),
    }
}

fn is_so(order: Ordering, comparison: Comparison) -> bool {
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Contains | Comparison::StartsWith | Comparison::EndsWith => false,
    }
}

impl Comparison {
    fn parse(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "eq" => Self::Equal,
            "ne" => Self::NotEqual,
            "co" => Self::Contains,
            "sw" => Self::StartsWith,
            "ew" => Self::EndsWith,
            "gt" => Self::Greater,
            "ge" => Self::GreaterOrEqual,
            "lt" => Self::Less,
            "le" => Self::LessOrEqual,
            _ => return None,
        })
    }

    const fn is_equality(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual)
    }

    const fn is_about_text(self) -> bool {
        matches!(self, Self::Contains | Self::StartsWith | Self::EndsWith)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// `(` or `[`.
    Open(char),
    /// `)` or `]`.
    Close(char),
    Word(String),
    Text(String),
}

/// Characters of attribute names, their parts and schemas, of operators, numbers and literals.
fn is_of_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | ':' | '$' | '+')
}

/// Reads what stands in double quotes, as JSON does.
fn quoted(characters: &mut Peekable<Chars<'_>>) -> Result<String, ScimError> {
    let mut written = String::from('"');
    let mut is_escaped = false;
    for character in characters.by_ref() {
        written.push(character);
        match character {
            '"' if !is_escaped => {
                return serde_json::from_str(&written)
                    .map_err(|_| ScimError::filter(format!("{written} is no text")));
            }
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    Err(ScimError::filter("a text does not end"))
}

struct Parser<'a> {
    characters: Peekable<Chars<'a>>,
    ahead: Option<Token>,
    types: &'a [ResourceType],
    /// The attribute within whose values is looked.
    within: Option<&'static Attribute>,
    terms: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, types: &'a [ResourceType]) -> Result<Self, ScimError> {
        if text.len() > MAX_FILTER_BYTES {
            return Err(ScimError::filter(format!(
                "has {} bytes, {MAX_FILTER_BYTES} are allowed",
                text.len()
            )));
        }
        Ok(Self {
            characters: text.chars().peekable(),
            ahead: None,
            types,
            within: None,
            terms: 0,
        })
    }

    fn next(&mut self) -> Result<Option<Token>, ScimError> {
        if let Some(token) = self.ahead.take() {
            return Ok(Some(token));
        }
        while self.characters.next_if(|next| *next == ' ').is_some() {}
        let Some(first) = self.characters.next() else {
            return Ok(None);
        };
        Ok(Some(match first {
            '(' | '[' => Token::Open(first),
            ')' | ']' => Token::Close(first),
            '"' => Token::Text(quoted(&mut self.characters)?),
            _ if is_of_word(first) => {
                let mut word = String::from(first);
                while let Some(next) = self.characters.next_if(|next| is_of_word(*next)) {
                    word.push(next);
                }
                Token::Word(word)
            }
            _ => return Err(ScimError::filter(format!("`{first}` is not understood"))),
        }))
    }

    fn peek(&mut self) -> Result<Option<&Token>, ScimError> {
        if self.ahead.is_none() {
            self.ahead = self.next()?;
        }
        Ok(self.ahead.as_ref())
    }

    fn end(&mut self) -> Result<(), ScimError> {
        match self.next()? {
            None => Ok(()),
            Some(_) => Err(ScimError::filter("there is something behind the end")),
        }
    }

    /// Whether the next word is this one; then it is taken.
    fn takes(&mut self, word: &str) -> Result<bool, ScimError> {
        let is_next =
            matches!(self.peek()?, Some(Token::Word(next)) if next.eq_ignore_ascii_case(word));
        if is_next {
            self.ahead = None;
        }
        Ok(is_next)
    }

    fn expect(&mut self, token: &Token) -> Result<(), ScimError> {
        if self.next()?.as_ref() == Some(token) {
            return Ok(());
        }
        Err(ScimError::filter("a parenthesis or bracket is missing"))
    }

    /// `… or …`
    fn any_of(&mut self, depth: usize) -> Result<Filter, ScimError> {
        let mut filters = vec![self.all_of(depth)?];
        while self.takes("or")? {
            filters.push(self.all_of(depth)?);
        }
        Ok(single(filters, Filter::Any))
    }

    /// `… and …`
    fn all_of(&mut self, depth: usize) -> Result<Filter, ScimError> {
        let mut filters = vec![self.term(depth)?];
        while self.takes("and")? {
            filters.push(self.term(depth)?);
        }
        Ok(single(filters, Filter::All))
    }

    fn term(&mut self, depth: usize) -> Result<Filter, ScimError> {
        self.terms += 1;
        if depth > MAX_FILTER_DEPTH || self.terms > MAX_FILTER_TERMS {
            return Err(ScimError::filter(format!(
                "is too complex: {MAX_FILTER_DEPTH} levels and {MAX_FILTER_TERMS} terms are allowed"
            )));
        }
        if self.takes("not")? {
            let inner = self.parenthesised(depth)?;
            return Ok(Filter::Not(Box::new(inner)));
        }
        if self.peek()? == Some(&Token::Open('(')) {
            return self.parenthesised(depth);
        }
        let Some(Token::Word(word)) = self.next()? else {
            return Err(ScimError::filter("an attribute is missing"));
        };
        let place = self.place(&word)?;
        if self.peek()? == Some(&Token::Open('[')) {
            let filter = self.within(place, depth)?;
            return Ok(Filter::Within(place.attribute, Box::new(filter)));
        }
        self.comparison(place)
    }

    fn parenthesised(&mut self, depth: usize) -> Result<Filter, ScimError> {
        self.expect(&Token::Open('('))?;
        let inner = self.any_of(depth + 1)?;
        self.expect(&Token::Close(')'))?;
        Ok(inner)
    }

    /// `[…]` behind an attribute.
    fn within(&mut self, place: Place, depth: usize) -> Result<Filter, ScimError> {
        let is_nested = self.within.is_some() || place.part.is_some();
        if is_nested || place.attribute.parts().is_empty() || !place.attribute.is_many {
            let name = place.attribute.name;
            return Err(ScimError::filter(format!(
                "`{name}` has no values to choose from"
            )));
        }
        self.expect(&Token::Open('['))?;
        self.within = Some(place.attribute);
        let filter = self.any_of(depth + 1);
        self.within = None;
        self.expect(&Token::Close(']'))?;
        filter
    }

    fn comparison(&mut self, place: Place) -> Result<Filter, ScimError> {
        let Some(Token::Word(operator)) = self.next()? else {
            return Err(ScimError::filter("an operator is missing"));
        };
        if operator.eq_ignore_ascii_case("pr") {
            return Ok(Filter::Present(place));
        }
        let comparison = Comparison::parse(&operator)
            .ok_or_else(|| ScimError::filter(format!("`{operator}` is no operator")))?;
        let wanted = match self.next()? {
            Some(Token::Text(text)) => Value::String(text),
            Some(Token::Word(word)) => literal(&word)?,
            _ => return Err(ScimError::filter("a value is missing")),
        };
        let place = place.compared();
        check(place, comparison, &wanted)?;
        Ok(Filter::Compare(place, comparison, wanted))
    }

    /// The attribute that `word` names, perhaps with its schema before it and a part behind it.
    fn place(&self, word: &str) -> Result<Place, ScimError> {
        let unknown = || ScimError::filter(format!("there is no attribute `{word}`"));
        let (schema, name) = match word.rsplit_once(':') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, word),
        };
        let (name, part) = match name.split_once('.') {
            Some((name, part)) => (name, Some(part)),
            None => (name, None),
        };
        if let Some(attribute) = self.within {
            let found = attribute.part(name).filter(|_| part.is_none());
            let attribute = found.ok_or_else(unknown)?;
            return Ok(Place {
                attribute,
                part: None,
            });
        }
        let is_meant =
            |of: &&ResourceType| schema.is_none_or(|urn| urn.eq_ignore_ascii_case(of.urn()));
        let mut types = self.types.iter().filter(is_meant);
        let attribute = types
            .find_map(|of| of.attribute(name))
            .ok_or_else(unknown)?;
        let part = match part {
            Some(part) => Some(attribute.part(part).ok_or_else(unknown)?),
            None => None,
        };
        Ok(Place { attribute, part })
    }
}

/// Refuses what cannot be compared so, and what nobody may learn by asking.
fn check(place: Place, comparison: Comparison, wanted: &Value) -> Result<(), ScimError> {
    let leaf = place.leaf();
    if leaf.returned == Returned::Never {
        return Err(ScimError::filter(format!("`{}` is not told", leaf.name)));
    }
    let fits = match (leaf.kind, wanted) {
        (_, Value::Null) => comparison.is_equality(),
        (Kind::Text | Kind::Reference(_), Value::String(_)) => true,
        (Kind::Moment, Value::String(text)) => {
            Timestamp::parse_rfc3339(text).is_some() && !comparison.is_about_text()
        }
        (Kind::Boolean, Value::Bool(_)) => comparison.is_equality(),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(ScimError::filter(format!(
        "`{}` cannot be compared with {wanted} like this",
        leaf.name
    )))
}

fn literal(word: &str) -> Result<Value, ScimError> {
    match word.to_ascii_lowercase().as_str() {
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        "null" => Ok(Value::Null),
        _ => Err(ScimError::filter(format!(
            "`{word}` is no value; texts are in double quotes"
        ))),
    }
}

fn single(mut filters: Vec<Filter>, several: fn(Vec<Filter>) -> Filter) -> Filter {
    match (filters.pop(), filters.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            filters.extend(last);
            several(filters)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn user() -> Value {
        json!({
            "id": "usr_1",
            "userName": "bjensen",
            "displayName": "Babs",
            "active": true,
            "name": { "familyName": "O'Malley \"x\"" },
            "emails": [
                { "value": "bjensen@example.com", "type": "work", "primary": true },
                { "value": "babs@jensen.org", "type": "home" },
            ],
            "meta": { "lastModified": "2011-05-13T04:42:34Z" },
        })
    }

    fn holds(filter: &str) -> bool {
        Filter::parse(filter, &[ResourceType::User])
            .unwrap_or_else(|error| panic!("{filter}: {error}"))
            .matches(&user())
    }

    #[test]
    fn the_examples_of_the_rfc_hold() {
        for filter in [
            r#"userName eq "bjensen""#,
            r#"USERNAME Eq "BJENSEN""#,
            r#"name.familyName co "O'Malley""#,
            r#"userName sw "B""#,
            r#"urn:ietf:params:scim:schemas:core:2.0:User:userName sw "b""#,
            "displayName pr",
            r#"meta.lastModified gt "2011-05-13T04:42:33Z""#,
            r#"meta.lastModified ge "2011-05-13T06:42:34+02:00""#,
            r#"meta.lastModified le "2011-05-13T04:42:34.000Z""#,
            r#"displayName pr and emails co "example.com""#,
            r#"active eq false or emails.type eq "home""#,
            r#"userName eq "x" or userName eq "bjensen" and active eq true"#,
            r#"not (userName eq "x") and (emails co "org" or emails.value co "none")"#,
            r#"emails[type eq "work" and value co "@example.com"]"#,
            r#"externalId eq null and not(externalId pr)"#,
            r#"externalId ne "x""#,
            r#"name.familyName ew "\"x\"""#,
            r#"name.familyName eq "\u004f'malley \"X\"""#,
        ] {
            assert!(holds(filter), "{filter}");
        }
        for filter in [
            r#"id eq "USR_1""#,
            r#"emails[type eq "home" and value co "@example.com"]"#,
            r#"meta.lastModified lt "2011-05-13T04:42:34Z""#,
            r#"userName ne "bjensen""#,
            "externalId pr",
            "active eq false",
            r#"(userName eq "x" or userName eq "bjensen") and active eq false"#,
        ] {
            assert!(!holds(filter), "{filter}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let deep = format!("{}userName pr{}", "(".repeat(20), ")".repeat(20));
        let not = format!("{}userName pr{}", "not (".repeat(20), ")".repeat(20));
        let long = vec!["userName pr"; 100].join(" or ");
        let large = format!("userName eq \"{}\"", "x".repeat(10_000));
        for filter in [
            "",
            "userName",
            "userName eq",
            "userName eq bjensen",
            "userName like \"x\"",
            "userName eq \"x",
            "userName eq \"\\q\"",
            "(userName pr",
            "userName pr)",
            "userName pr userName pr",
            "and userName pr",
            "not userName pr",
            "nickName eq \"x\"",
            "userName.value eq \"x\"",
            "name.middleName pr",
            "password eq \"guess\"",
            "password sw \"a\"",
            "active gt true",
            "active eq \"true\"",
            "active co \"t\"",
            "userName eq 1",
            "meta.created gt \"yesterday\"",
            "meta.created co \"2026\"",
            "name[givenName eq \"x\"]",
            "emails[emails[value pr]]",
            "emails[nothing pr]",
            "emails.value[type pr]",
            "emails[type eq \"work\"",
            "emails eq true",
            "urn:other:User:userName pr",
            "userName eq \"x\"; drop",
            &deep,
            &not,
            &long,
            &large,
        ] {
            let parsed = Filter::parse(filter, &[ResourceType::User]);
            assert!(
                matches!(
                    parsed,
                    Err(ScimError::Refused {
                        kind: Some("invalidFilter"),
                        ..
                    })
                ),
                "{filter}: {parsed:?}"
            );
        }
        assert!(Filter::parse("members pr", &[ResourceType::User]).is_err());
        assert!(Filter::parse("members pr", &ResourceType::ALL).is_ok());
    }

    #[test]
    fn paths_lead_to_attributes_values_and_parts() {
        let path = |text| Path::parse(text, ResourceType::User);
        let found = path("emails[type eq \"work\"].value").unwrap();
        assert_eq!(found.attribute.name, "emails");
        assert_eq!(found.part.unwrap().name, "value");
        assert!(found.filter.unwrap().matches(&json!({ "type": "WORK" })));
        assert_eq!(
            path("NAME.givenname").unwrap().part.unwrap().name,
            "givenName"
        );
        let urn = "urn:ietf:params:scim:schemas:core:2.0:User:name.familyName";
        assert_eq!(path(urn).unwrap().part.unwrap().name, "familyName");
        for bad in [
            "",
            "emails[",
            "emails[type pr].",
            "emails[type pr]value",
            "emails[type pr].x",
            "x",
            "name.x",
            "userName eq \"x\"",
            "\"userName\"",
            "[type pr]",
            "emails[type pr] value",
        ] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "(userName|emails|active|not|and|or|eq|pr|co|\\(|\\)|\\[|\\]|\"|\\\\|x|é| |\\.){0,40}") {
            if let Ok(filter) = Filter::parse(&text, &ResourceType::ALL) {
                filter.matches(&user());
            }
            let _ = Path::parse(&text, ResourceType::User);
        }
    }
}
