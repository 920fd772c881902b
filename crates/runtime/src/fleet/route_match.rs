//! What a route matches: `POST /orders/{id}`.

use std::{cmp::Ordering, fmt, str::FromStr};

use testudo_model::{ActionClass, InvalidPathPattern, PathPattern};

use super::text_value::text_value;

/// Methods and path of a route: `GET /books`, `GET,PUT /files/{*path}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    methods: Vec<String>,
    path: PathPattern,
}

/// Why a text does not say what a route matches.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRouteMatch {
    /// Not two words.
    #[error(
        "`{0}` does not say what to match: write methods and a path, such as `GET /books/{{id}}` or `GET,PUT /a`"
    )]
    Malformed(String),
    /// Not an HTTP method.
    #[error(
        "`{0}` is not an HTTP method; methods are upper-case words such as GET, POST, PUT, PATCH or DELETE"
    )]
    Method(String),
    /// A method that a proxy must not pass on.
    #[error("`{0}` cannot be routed: CONNECT opens tunnels and TRACE reflects credentials")]
    Forbidden(String),
    /// The same method twice.
    #[error("`{0}` is listed twice")]
    Repeated(String),
    /// The path is not a pattern.
    #[error(transparent)]
    Path(#[from] InvalidPathPattern),
}

/// Longest method accepted; the longest registered one has 17 letters.
const MAX_METHOD_BYTES: usize = 32;

impl RouteMatch {
    /// Upper-case methods, in the order given.
    pub fn methods(&self) -> &[String] {
        &self.methods
    }

    /// The path pattern.
    pub const fn path(&self) -> &PathPattern {
        &self.path
    }

    /// The action if the route does not say: looking for the safe methods (RFC 9110 section 9.2.1), changing
    /// for all others.
    pub fn default_action(&self) -> ActionClass {
        let is_safe = |method: &String| matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS");
        if self.methods.iter().all(is_safe) {
            ActionClass::Read
        } else {
            ActionClass::Write
        }
    }

    /// A method both match, counting the `HEAD` that `GET` implies.
    pub fn shared_method<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let implied = |methods: &[String], method: &str| {
            method == "HEAD" && methods.iter().any(|m| m == "GET")
        };
        let matches = |methods: &[String], method: &str| {
            methods.iter().any(|m| m == method) || implied(methods, method)
        };
        let (mine, others) = (self.methods.iter(), other.methods.iter());
        mine.filter(|method| matches(&other.methods, method))
            .chain(others.filter(|method| matches(&self.methods, method)))
            .map(String::as_str)
            .next()
    }

    /// The path without the names of its parameters: two patterns of one shape match the same paths.
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        for segment in segments(&self.path) {
            shape.push('/');
            shape.push_str(segment.shape());
        }
        shape
    }

    /// The wildcards of the path, each with the shape of what comes before it. The table of a proxy holds one kind
    /// of wildcard behind the same segments, whatever the methods.
    pub fn wildcards(&self) -> Vec<(String, Wildcard)> {
        let mut before = String::new();
        let mut wildcards = Vec::new();
        for segment in segments(&self.path) {
            match segment {
                Segment::One => wildcards.push((before.clone(), Wildcard::One)),
                Segment::Rest => wildcards.push((before.clone(), Wildcard::Rest)),
                Segment::Literal(_) => {}
            }
            before.push('/');
            before.push_str(segment.shape());
        }
        wildcards
    }

    /// How the paths of two routes relate.
    pub fn overlap(&self, other: &Self) -> Overlap {
        overlap(&segments(&self.path), &segments(&other.path))
    }
}

/// What a segment of a path matches if it is no literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wildcard {
    /// `{name}`: one segment.
    One,
    /// `{*name}`: the rest.
    Rest,
}

/// How two path patterns relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// No path matches both.
    None,
    /// Exactly the same paths match both.
    Same,
    /// Every path that one matches, the other does too: the narrower one wins, as the author expects.
    Nested,
    /// Some paths match both, and neither is the narrower one.
    Crossing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment<'a> {
    Literal(&'a str),
    One,
    Rest,
}

impl<'a> Segment<'a> {
    const fn shape(self) -> &'a str {
        match self {
            Self::Literal(text) => text,
            Self::One => "{}",
            Self::Rest => "{*}",
        }
    }
}

fn segments(path: &PathPattern) -> Vec<Segment<'_>> {
    path.as_str()
        .split('/')
        .skip(1)
        .map(|segment| match segment.strip_prefix('{') {
            Some(name) if name.starts_with('*') => Segment::Rest,
            Some(_) => Segment::One,
            None => Segment::Literal(segment),
        })
        .collect()
}

fn overlap(a: &[Segment<'_>], b: &[Segment<'_>]) -> Overlap {
    // Which side was the narrower one so far.
    let mut narrower = Ordering::Equal;
    let mut crossing = false;
    let mut note = |side: Ordering| match narrower {
        Ordering::Equal => narrower = side,
        known if known != side => crossing = true,
        _ => {}
    };
    let (mut left, mut right) = (a.iter(), b.iter());
    loop {
        match (left.next(), right.next()) {
            (None, None) | (Some(Segment::Rest), Some(Segment::Rest)) => break,
            // `{*rest}` needs at least one segment, possibly an empty one.
            (Some(Segment::Rest), Some(_)) => {
                note(Ordering::Greater);
                break;
            }
            (Some(_), Some(Segment::Rest)) => {
                note(Ordering::Less);
                break;
            }
            (None, _) | (_, None) => return Overlap::None,
            (Some(Segment::Literal(x)), Some(Segment::Literal(y))) if x != y => {
                return Overlap::None;
            }
            // A parameter matches a segment, never an empty one.
            (Some(Segment::Literal("")), Some(Segment::One))
            | (Some(Segment::One), Some(Segment::Literal(""))) => {
                return Overlap::None;
            }
            (Some(Segment::Literal(_)), Some(Segment::One)) => note(Ordering::Less),
            (Some(Segment::One), Some(Segment::Literal(_))) => note(Ordering::Greater),
            (Some(_), Some(_)) => {}
        }
    }
    match (crossing, narrower) {
        (true, _) => Overlap::Crossing,
        (false, Ordering::Equal) => Overlap::Same,
        (false, _) => Overlap::Nested,
    }
}

impl FromStr for RouteMatch {
    type Err = InvalidRouteMatch;

    fn from_str(text: &str) -> Result<Self, InvalidRouteMatch> {
        let malformed = || InvalidRouteMatch::Malformed(text.chars().take(80).collect());
        let (methods, path) = text.trim().rsplit_once([' ', '\t']).ok_or_else(malformed)?;
        if !path.starts_with('/') {
            return Err(malformed());
        }
        let mut parsed: Vec<String> = Vec::new();
        for method in methods.split([',', '|']).map(str::trim) {
            let is_word = !method.is_empty() && method.len() <= MAX_METHOD_BYTES;
            if !is_word
                || !method
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte == b'-')
            {
                return Err(InvalidRouteMatch::Method(
                    method.chars().take(MAX_METHOD_BYTES).collect(),
                ));
            }
            if matches!(method, "CONNECT" | "TRACE") {
                return Err(InvalidRouteMatch::Forbidden(method.to_owned()));
            }
            if parsed.iter().any(|known| known == method) {
                return Err(InvalidRouteMatch::Repeated(method.to_owned()));
            }
            parsed.push(method.to_owned());
        }
        Ok(Self {
            methods: parsed,
            path: path.parse()?,
        })
    }
}

impl fmt::Display for RouteMatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.methods.join(","), self.path)
    }
}

text_value!(
    RouteMatch,
    "methods and a path, such as `GET /books/{id}`",
    "^[A-Z-]+( *[,|] *[A-Z-]+)*[ \\t]+/.*$",
    ["GET /books", "POST /orders/{id}", "GET,PUT /files/{*path}"]
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(text: &str) -> RouteMatch {
        text.parse().unwrap()
    }

    #[test]
    fn methods_and_path_are_read() {
        let files = route("GET, PUT /files/{*path}");
        assert_eq!(files.methods(), ["GET", "PUT"]);
        assert_eq!(files.path().as_str(), "/files/{*path}");
        assert_eq!(files.to_string(), "GET,PUT /files/{*path}");
        assert_eq!(route("PROPFIND|GET /dav").methods(), ["PROPFIND", "GET"]);
        for bad in [
            "",
            "GET",
            "/books",
            "get /books",
            "GET books",
            "GET /a /b",
            "GET,,PUT /a",
            "GET /a/{",
        ] {
            assert!(bad.parse::<RouteMatch>().is_err(), "{bad}");
        }
        assert!(matches!(
            "CONNECT /".parse::<RouteMatch>(),
            Err(InvalidRouteMatch::Forbidden(_))
        ));
        assert!(matches!(
            "GET,GET /".parse::<RouteMatch>(),
            Err(InvalidRouteMatch::Repeated(_))
        ));
    }

    #[test]
    fn only_safe_methods_are_reads() {
        assert_eq!(
            route("GET,HEAD,OPTIONS /a").default_action(),
            ActionClass::Read
        );
        assert_eq!(route("GET,POST /a").default_action(), ActionClass::Write);
        assert_eq!(route("PROPFIND /a").default_action(), ActionClass::Write);
    }

    #[test]
    fn get_shares_the_head_it_implies() {
        assert_eq!(
            route("GET /a").shared_method(&route("HEAD /a")),
            Some("HEAD")
        );
        assert_eq!(
            route("GET /a").shared_method(&route("PUT,GET /a")),
            Some("GET")
        );
        assert_eq!(route("GET /a").shared_method(&route("POST /a")), None);
    }

    #[test]
    fn overlaps_are_told_apart() {
        let table = [
            ("/a", "/b", Overlap::None),
            ("/a", "/a/", Overlap::None),
            ("/a/{id}", "/a/", Overlap::None),
            ("/a/{id}", "/a/{name}", Overlap::Same),
            ("/a/{*rest}", "/a/{*more}", Overlap::Same),
            ("/a/new", "/a/{id}", Overlap::Nested),
            ("/{*all}", "/a/{id}", Overlap::Nested),
            ("/{*all}", "/", Overlap::Nested),
            ("/a/{*rest}", "/a", Overlap::None),
            ("/a/{x}", "/{y}/b", Overlap::Crossing),
            ("/a/{*rest}", "/{x}/b", Overlap::Crossing),
        ];
        for (a, b, expected) in table {
            let (a, b) = (route(&format!("GET {a}")), route(&format!("GET {b}")));
            assert_eq!(
                (a.overlap(&b), b.overlap(&a)),
                (expected, expected),
                "{a} and {b}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_printed_reads_back(text in "\\PC{0,40}|(GET|PUT)(,POST)? (/([a-z]{1,3}|\\{[a-z]\\})){1,4}") {
            if let Ok(parsed) = text.parse::<RouteMatch>() {
                prop_assert_eq!(parsed.to_string().parse::<RouteMatch>(), Ok(parsed));
            }
        }
    }
}
