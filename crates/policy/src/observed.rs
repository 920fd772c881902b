//! A call as observed, in its three forms: Cedar context, evidence, cache key. Each holds the facts that policies
//! may read and no others.

use std::net::IpAddr;

use cedar_policy::{Context, ContextCreationError, EntityUid, RestrictedExpression};
use serde::Serialize;
use testudo_model::Timestamp;

use crate::{
    decision::{KeyBuilder, Peer, TokenFacts},
    facts::Facts,
};

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
    pub(crate) fn context(&self, facts: Facts) -> Result<Context, Box<ContextCreationError>> {
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
        Ok(Context::from_pairs(pairs)?)
    }

    fn peer_record(&self, facts: Facts) -> Result<RestrictedExpression, Box<ContextCreationError>> {
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
        record(fields)
    }

    /// The same facts as JSON in Cedar's own form, for the record: it can be read back and replayed.
    pub(crate) fn recorded(&self, facts: Facts) -> String {
        let has = |fact| facts.contains(fact);
        let recorded = Recorded {
            peer: RecordedPeer {
                service: has(Facts::PEER_SERVICE).then_some(RecordedEntity {
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
) -> Result<RestrictedExpression, Box<ContextCreationError>> {
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
    record(fields)
}

fn record(
    fields: Vec<(String, RestrictedExpression)>,
) -> Result<RestrictedExpression, Box<ContextCreationError>> {
    RestrictedExpression::new_record(fields).map_err(|error| Box::new(error.into()))
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
