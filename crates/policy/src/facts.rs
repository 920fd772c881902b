//! The facts of a call: which of them policies read, and the Cedar context made of just those.
//!
//! Building a context costs more than deciding, and a decision may be cached exactly as long as the facts it
//! was read from stay the same. So the engine knows for each policy which facts it reads.

use std::{net::IpAddr, sync::Arc};

use cedar_policy::{
    Context, ContextCreationError, EntityUid, Policy, RestrictedExpression,
    pst::{Clause, Expr, Var},
};
use serde::Serialize;
use testudo_model::Timestamp;

use crate::decision::{KeyBuilder, Peer, TokenFacts};

/// A set of context attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Facts(u16);

macro_rules! facts {
    ($($name:ident = $bit:literal: $path:expr;)*) => {
        impl Facts {
            $(pub(crate) const $name: Self = Self(1 << $bit);)*
            pub(crate) const ALL: Self = Self(0 $(| (1 << $bit))*);

            /// Single facts with their path in the context.
            const PATHS: &[(Self, &[&str])] = &[$((Self::$name, &$path),)*];
        }
    };
}

facts! {
    PEER_SERVICE = 0: ["peer", "service"];
    PEER_VERIFIED = 1: ["peer", "verified"];
    PEER_TRUST_DOMAIN = 2: ["peer", "trustDomain"];
    PEER_CERTIFICATE_EXPIRES = 3: ["peer", "certificateExpires"];
    // Whether there is a token at all.
    TOKEN = 4: ["token"];
    TOKEN_ISSUER = 5: ["token", "issuer"];
    TOKEN_SCOPES = 6: ["token", "scopes"];
    TOKEN_ASSURANCE = 7: ["token", "assurance"];
    TOKEN_AUTHENTICATED_AT = 8: ["token", "authenticatedAt"];
    TOKEN_BOUND = 9: ["token", "boundToPeer"];
    SOURCE_IP = 10: ["sourceIp"];
    NOW = 11: ["now"];
    PATH = 12: ["path"];
    RISK = 13: ["risk"];
}

impl Facts {
    /// The facts a policy may read: each path that starts at `context`, as far as the policy follows it.
    /// What cannot be told apart counts as read.
    pub(crate) fn read_by(policy: &Policy) -> Self {
        let Ok(tree) = policy.to_pst() else {
            return Self::ALL;
        };
        let mut facts = Self::default();
        for clause in tree.body().clauses() {
            match clause {
                Clause::When(condition) | Clause::Unless(condition) => {
                    facts.insert_all_in(condition)
                }
            }
        }
        facts
    }

    pub(crate) const fn contains(self, fact: Self) -> bool {
        self.0 & fact.0 != 0
    }

    pub(crate) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn insert_all_in(&mut self, expression: &Expr) {
        if asks_for_token(expression) {
            *self = self.union(Self::TOKEN);
            return;
        }
        if let Some(path) = context_path(expression) {
            *self = self.union(Self::at(&path));
            return;
        }
        match expression {
            Expr::UnaryOp { expr, .. }
            | Expr::GetAttr { expr, .. }
            | Expr::HasAttr { expr, .. }
            | Expr::Like { expr, .. } => self.insert_all_in(expr),
            Expr::BinaryOp { left, right, .. } => {
                self.insert_all_in(left);
                self.insert_all_in(right);
            }
            Expr::Is { expr, in_expr, .. } => {
                self.insert_all_in(expr);
                self.insert_each(in_expr);
            }
            Expr::IfThenElse {
                cond,
                then_expr,
                else_expr,
            } => {
                self.insert_each([cond, then_expr, else_expr]);
            }
            Expr::Set(items) => self.insert_each(items),
            Expr::Record(items) => self.insert_each(items.values()),
            Expr::Literal(_) | Expr::Var(_) => {}
            // Slots and unknowns do not occur in static policies; a future kind of expression reads what it likes.
            _ => *self = Self::ALL,
        }
    }

    fn insert_each<'a>(&mut self, expressions: impl IntoIterator<Item = &'a Arc<Expr>>) {
        for expression in expressions {
            self.insert_all_in(expression);
        }
    }

    /// The facts at `path` and below, and those on the way (`token.scopes` is also about whether there is a token).
    fn at(path: &[&str]) -> Self {
        let related = |known: &[&str]| known.iter().zip(path).all(|(a, b)| a == b);
        Self::PATHS
            .iter()
            .filter(|(_, known)| related(known))
            .fold(Self::default(), |facts, (fact, _)| facts.union(*fact))
    }
}

/// The attributes followed from `context`: `[]` for `context` itself, `None` if the expression starts elsewhere.
fn context_path(expression: &Expr) -> Option<Vec<&str>> {
    match expression {
        Expr::Var(Var::Context) => Some(Vec::new()),
        Expr::GetAttr { expr, attr } => {
            let mut path = context_path(expr)?;
            path.push(attr.as_str());
            Some(path)
        }
        Expr::HasAttr { expr, attrs } => {
            let mut path = context_path(expr)?;
            path.extend(attrs.iter().map(|attr| attr.as_str()));
            Some(path)
        }
        _ => None,
    }
}

/// `context has token`: about the token's presence and nothing in it.
fn asks_for_token(expression: &Expr) -> bool {
    let Expr::HasAttr { expr, attrs } = expression else {
        return false;
    };
    matches!(**expr, Expr::Var(Var::Context)) && attrs.len() == 1 && attrs.first() == "token"
}

/// What was observed about a call; `None` for what its action has no such fact of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observed<'a> {
    pub(crate) peer: Peer<'a>,
    pub(crate) peer_uid: &'a EntityUid,
    pub(crate) token: Option<TokenFacts<'a>>,
    pub(crate) source_ip: IpAddr,
    pub(crate) now: Timestamp,
    pub(crate) path: Option<&'a str>,
    pub(crate) risk: Option<i64>,
}

impl Observed<'_> {
    /// The Cedar context with `facts` alone. Fails for times outside the years 0 to 9999.
    pub(crate) fn context(&self, facts: Facts) -> Result<Context, ContextCreationError> {
        let mut pairs = Vec::with_capacity(4);
        pairs.push(("peer".to_owned(), self.peer_record(facts)?));
        if facts.contains(Facts::TOKEN)
            && let Some(token) = &self.token
        {
            pairs.push(("token".to_owned(), token_record(token, facts)?));
        }
        if facts.contains(Facts::SOURCE_IP) {
            let text = self.source_ip.to_canonical().to_string();
            pairs.push(("sourceIp".to_owned(), RestrictedExpression::new_ip(text)));
        }
        if facts.contains(Facts::NOW) {
            pairs.push(("now".to_owned(), datetime(self.now)));
        }
        if facts.contains(Facts::PATH)
            && let Some(path) = self.path
        {
            pairs.push((
                "path".to_owned(),
                RestrictedExpression::new_string(path.to_owned()),
            ));
        }
        if facts.contains(Facts::RISK)
            && let Some(risk) = self.risk
        {
            pairs.push(("risk".to_owned(), RestrictedExpression::new_long(risk)));
        }
        Context::from_pairs(pairs)
    }

    fn peer_record(&self, facts: Facts) -> Result<RestrictedExpression, ContextCreationError> {
        let mut fields = Vec::with_capacity(4);
        if facts.contains(Facts::PEER_SERVICE) {
            fields.push((
                "service".to_owned(),
                RestrictedExpression::new_entity_uid(self.peer_uid.clone()),
            ));
        }
        if facts.contains(Facts::PEER_VERIFIED) {
            fields.push((
                "verified".to_owned(),
                RestrictedExpression::new_bool(self.peer.verified),
            ));
        }
        if facts.contains(Facts::PEER_TRUST_DOMAIN) {
            let domain = self.peer.trust_domain.to_owned();
            fields.push((
                "trustDomain".to_owned(),
                RestrictedExpression::new_string(domain),
            ));
        }
        if facts.contains(Facts::PEER_CERTIFICATE_EXPIRES) {
            fields.push((
                "certificateExpires".to_owned(),
                datetime(self.peer.certificate_expires),
            ));
        }
        Ok(RestrictedExpression::new_record(fields)?)
    }

    /// The same facts as JSON in Cedar's own form, for the record: it can be read back and replayed.
    pub(crate) fn recorded(&self, facts: Facts) -> String {
        let has = |fact| facts.contains(fact);
        let recorded = Recorded {
            peer: RecordedPeer {
                service: has(Facts::PEER_SERVICE).then(|| RecordedEntity {
                    entity: EntityName {
                        kind: "Fleet::Service",
                        id: self.peer.service,
                    },
                }),
                verified: has(Facts::PEER_VERIFIED).then_some(self.peer.verified),
                trust_domain: has(Facts::PEER_TRUST_DOMAIN).then_some(self.peer.trust_domain),
                certificate_expires: has(Facts::PEER_CERTIFICATE_EXPIRES)
                    .then(|| RecordedValue::datetime(self.peer.certificate_expires)),
            },
            token: self
                .token
                .filter(|_| has(Facts::TOKEN))
                .map(|token| RecordedToken {
                    issuer: has(Facts::TOKEN_ISSUER).then_some(token.issuer),
                    scopes: has(Facts::TOKEN_SCOPES).then_some(token.scopes),
                    assurance: has(Facts::TOKEN_ASSURANCE).then_some(token.assurance),
                    authenticated_at: has(Facts::TOKEN_AUTHENTICATED_AT)
                        .then(|| RecordedValue::datetime(token.authenticated_at)),
                    bound_to_peer: has(Facts::TOKEN_BOUND).then_some(token.bound),
                }),
            source_ip: has(Facts::SOURCE_IP)
                .then(|| RecordedValue::new("ip", self.source_ip.to_canonical().to_string())),
            now: has(Facts::NOW).then(|| RecordedValue::datetime(self.now)),
            path: self.path.filter(|_| has(Facts::PATH)),
            risk: self.risk.filter(|_| has(Facts::RISK)),
        };
        // Strings, numbers and string keys always serialize.
        serde_json::to_string(&recorded).unwrap_or_default()
    }

    /// Adds the values of `facts` to a cache key. `None` if one of them changes by itself.
    pub(crate) fn extend_key(&self, facts: Facts, key: &mut KeyBuilder) -> Option<()> {
        if facts.contains(Facts::NOW) {
            return None;
        }
        if facts.contains(Facts::PEER_VERIFIED) {
            key.flag(self.peer.verified);
        }
        if facts.contains(Facts::PEER_TRUST_DOMAIN) {
            key.text(self.peer.trust_domain);
        }
        if facts.contains(Facts::PEER_CERTIFICATE_EXPIRES) {
            key.number(self.peer.certificate_expires.unix_millis());
        }
        if facts.contains(Facts::TOKEN) {
            key.flag(self.token.is_some());
            if let Some(token) = &self.token {
                extend_key_with_token(token, facts, key);
            }
        }
        if facts.contains(Facts::SOURCE_IP) {
            key.text(&self.source_ip.to_canonical().to_string());
        }
        if facts.contains(Facts::PATH) {
            key.text(self.path.unwrap_or(""));
        }
        if facts.contains(Facts::RISK) {
            key.number(self.risk.unwrap_or(0));
        }
        Some(())
    }
}

fn extend_key_with_token(token: &TokenFacts<'_>, facts: Facts, key: &mut KeyBuilder) {
    if facts.contains(Facts::TOKEN_ISSUER) {
        key.text(token.issuer);
    }
    if facts.contains(Facts::TOKEN_SCOPES) {
        key.number(i64::try_from(token.scopes.len()).unwrap_or(i64::MAX));
        token.scopes.iter().for_each(|scope| key.text(scope));
    }
    if facts.contains(Facts::TOKEN_ASSURANCE) {
        key.number(token.assurance);
    }
    if facts.contains(Facts::TOKEN_AUTHENTICATED_AT) {
        key.number(token.authenticated_at.unix_millis());
    }
    if facts.contains(Facts::TOKEN_BOUND) {
        key.flag(token.bound);
    }
}

fn token_record(
    token: &TokenFacts<'_>,
    facts: Facts,
) -> Result<RestrictedExpression, ContextCreationError> {
    let mut fields = Vec::with_capacity(5);
    if facts.contains(Facts::TOKEN_ISSUER) {
        fields.push((
            "issuer".to_owned(),
            RestrictedExpression::new_string(token.issuer.to_owned()),
        ));
    }
    if facts.contains(Facts::TOKEN_SCOPES) {
        let scopes = token
            .scopes
            .iter()
            .cloned()
            .map(RestrictedExpression::new_string);
        fields.push(("scopes".to_owned(), RestrictedExpression::new_set(scopes)));
    }
    if facts.contains(Facts::TOKEN_ASSURANCE) {
        fields.push((
            "assurance".to_owned(),
            RestrictedExpression::new_long(token.assurance),
        ));
    }
    if facts.contains(Facts::TOKEN_AUTHENTICATED_AT) {
        fields.push((
            "authenticatedAt".to_owned(),
            datetime(token.authenticated_at),
        ));
    }
    if facts.contains(Facts::TOKEN_BOUND) {
        fields.push((
            "boundToPeer".to_owned(),
            RestrictedExpression::new_bool(token.bound),
        ));
    }
    Ok(RestrictedExpression::new_record(fields)?)
}

fn datetime(moment: Timestamp) -> RestrictedExpression {
    RestrictedExpression::new_datetime(moment.to_string())
}

#[derive(Serialize)]
struct Recorded<'a> {
    peer: RecordedPeer<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<RecordedToken<'a>>,
    #[serde(rename = "sourceIp", skip_serializing_if = "Option::is_none")]
    source_ip: Option<RecordedValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<RecordedValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    risk: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordedPeer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<RecordedEntity<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_domain: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_expires: Option<RecordedValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordedToken<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assurance: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authenticated_at: Option<RecordedValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bound_to_peer: Option<bool>,
}

#[derive(Serialize)]
struct RecordedEntity<'a> {
    #[serde(rename = "__entity")]
    entity: EntityName<'a>,
}

#[derive(Serialize)]
struct EntityName<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
}

#[derive(Serialize)]
struct RecordedValue {
    #[serde(rename = "__extn")]
    call: ExtensionCall,
}

#[derive(Serialize)]
struct ExtensionCall {
    #[serde(rename = "fn")]
    function: &'static str,
    arg: String,
}

impl RecordedValue {
    const fn new(function: &'static str, arg: String) -> Self {
        Self {
            call: ExtensionCall { function, arg },
        }
    }

    fn datetime(moment: Timestamp) -> Self {
        Self::new("datetime", moment.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_by(condition: &str) -> Facts {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        Facts::read_by(&Policy::parse(None, text).unwrap())
    }

    #[test]
    fn a_policy_reads_the_paths_it_follows() {
        let token_scopes = Facts::TOKEN.union(Facts::TOKEN_SCOPES);
        assert_eq!(read_by("principal.disabled"), Facts::default());
        assert_eq!(
            read_by("context.risk > 3 || context.peer.verified"),
            Facts::RISK.union(Facts::PEER_VERIFIED)
        );
        assert_eq!(read_by("context[\"risk\"] > 3"), Facts::RISK);
        assert_eq!(read_by("context has token"), Facts::TOKEN);
        assert_eq!(
            read_by("context has token && context.token.scopes.contains(\"x\")"),
            token_scopes
        );
        assert_eq!(
            read_by("context.token.scopes.contains(\"x\")"),
            token_scopes
        );
        assert_eq!(
            read_by("context.peer.service.quarantined"),
            Facts::PEER_SERVICE
        );
        assert_eq!(read_by("context has token.scopes"), token_scopes);
    }

    #[test]
    fn a_record_used_as_a_whole_is_read_as_a_whole() {
        let token = [
            Facts::TOKEN_ISSUER,
            Facts::TOKEN_SCOPES,
            Facts::TOKEN_ASSURANCE,
            Facts::TOKEN_BOUND,
        ]
        .into_iter()
        .fold(
            Facts::TOKEN.union(Facts::TOKEN_AUTHENTICATED_AT),
            Facts::union,
        );
        assert_eq!(read_by("context.token == context.token"), token);
        assert_eq!(
            read_by("(if true then context.token else context.token).bound"),
            token
        );
        assert_eq!(read_by("[context].isEmpty()"), Facts::ALL);
        assert_eq!(read_by("{a: context.now} == {a: context.now}"), Facts::NOW);
        assert_eq!(read_by("context.path like \"/a*\""), Facts::PATH);
    }
}
