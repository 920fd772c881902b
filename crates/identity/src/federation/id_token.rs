//! What an ID token of another issuer says (OpenID Connect Core section 3.1.3.7).

use std::time::Duration;

use serde_json::{Map, Value};
use testudo_model::{Timestamp, limits::SESSION_LIFETIME};
use testudo_trust::{ForeignKeySet, JoseError, check_times, constant_time_eq, verify_foreign_jwt};

use super::{
    ForeignProfile, IdentityProvider, METHOD_FEDERATED, UpstreamAnswer, UpstreamError, Voucher,
    link::is_subject, profile::ForeignGroups,
};
use crate::{
    Caller, Provider,
    claims::ASSURANCE_TWO_FACTORS,
    limits::{MAX_TEXT_BYTES, UPSTREAM_CLOCK_SKEW},
    second_factor::METHOD_SEVERAL,
};

/// The claims of an ID token that was checked, and what was said beside it.
pub struct UpstreamClaims {
    claims: Map<String, Value>,
    /// Of the UserInfo endpoint: about the person alone, never about the login.
    told: Map<String, Value>,
    subject: String,
    voucher: Voucher,
}

impl UpstreamClaims {
    /// Adds an answer of the UserInfo endpoint (section 5.3.2). `false`: it is about somebody else, and nothing counts.
    pub fn add_user_info(&mut self, text: &[u8]) -> bool {
        let told: Option<Map<String, Value>> = serde_json::from_slice(text).ok();
        let same = |told: &Map<String, Value>| {
            told.get("sub").and_then(Value::as_str) == Some(&self.subject)
        };
        match told.filter(same) {
            Some(told) => {
                self.told = told;
                true
            }
            None => false,
        }
    }

    /// Who is vouched for, and what is said of them.
    pub(super) fn read(&self, at: &IdentityProvider) -> (Voucher, ForeignProfile) {
        let account = self
            .text("preferred_username")
            .or_else(|| self.text("email"));
        let voucher = Voucher {
            account: ForeignProfile::text(account),
            ..self.voucher.clone()
        };
        (voucher, self.profile(at))
    }

    fn profile(&self, at: &IdentityProvider) -> ForeignProfile {
        ForeignProfile {
            username: ForeignProfile::name(self.text(&at.username_claim)),
            display_name: ForeignProfile::text(self.text("name")),
            email: self.verified_email().filter(|_| at.trusts_email),
            groups: at
                .groups
                .as_ref()
                .map(|groups| ForeignGroups::new(&groups.map, self.texts(&groups.claim))),
        }
    }

    /// An address is verified by whoever names it: of two that say something, one alone is asked.
    fn verified_email(&self) -> Option<String> {
        let all = [&self.claims, &self.told].into_iter();
        let claims = all
            .into_iter()
            .find(|claims| claims.contains_key("email"))?;
        let is_verified = claims.get("email_verified") == Some(&Value::Bool(true));
        let email = claims.get("email").and_then(Value::as_str);
        ForeignProfile::text(email.filter(|email| is_verified && email.contains('@')))
    }

    fn claim(&self, name: &str) -> Option<&Value> {
        self.claims.get(name).or_else(|| self.told.get(name))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.claim(name)?.as_str()
    }

    fn texts(&self, name: &str) -> Vec<&str> {
        texts(self.claim(name))
    }
}

/// A claim that is a text, or a list of texts.
fn texts(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

impl Provider {
    /// Checks the ID token that came for `answer`.
    ///
    /// # Errors
    /// [`UpstreamError::UnknownKey`]: fetch the keys again and repeat. [`UpstreamError::NotAccepted`]: it is not believed.
    pub fn check_upstream_token(
        &self,
        answer: &UpstreamAnswer,
        id_token: &str,
        keys: &ForeignKeySet,
        caller: &Caller,
    ) -> Result<UpstreamClaims, UpstreamError> {
        let claims: Map<String, Value> = match verify_foreign_jwt(id_token, keys) {
            Ok(claims) => claims,
            Err(JoseError::UnknownKey) => return Err(UpstreamError::UnknownKey),
            Err(error) => {
                let why = format!("ID token: {error}");
                return Err(self.not_accepted(&answer.at, &answer.outgoing, &why, caller)?);
            }
        };
        match self.read_claims(answer, claims) {
            Ok(claims) => Ok(claims),
            Err(why) => {
                let why = format!("ID token: {why}");
                Err(self.not_accepted(&answer.at, &answer.outgoing, &why, caller)?)
            }
        }
    }

    fn read_claims(
        &self,
        answer: &UpstreamAnswer,
        claims: Map<String, Value>,
    ) -> Result<UpstreamClaims, &'static str> {
        let (at, outgoing) = (&answer.at, &answer.outgoing);
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let number = |name: &str| claims.get(name).and_then(Value::as_i64);
        if text("iss") != Some(&at.issuer) {
            return Err("iss is another issuer");
        }
        // More receivers than us are more who could have sent it on to us.
        let is_ours = match claims.get("aud") {
            Some(Value::Array(list)) => {
                matches!(list.as_slice(), [Value::String(only)] if *only == at.client_id)
            }
            aud => aud.and_then(Value::as_str) == Some(&at.client_id),
        };
        if !is_ours {
            return Err("aud is not us alone");
        }
        if claims.contains_key("azp") && text("azp") != Some(&at.client_id) {
            return Err("azp is not us");
        }
        let nonce = self.upstream_nonce(outgoing);
        if !constant_time_eq(text("nonce").unwrap_or("").as_bytes(), nonce.as_bytes()) {
            return Err("nonce is not that of this login");
        }
        let (Some(iat), Some(exp)) = (number("iat"), number("exp")) else {
            return Err("iat or exp is missing");
        };
        let now = self.clock.now();
        if check_times(iat, number("nbf"), exp, now, UPSTREAM_CLOCK_SKEW).is_err() {
            return Err("it has ended, or has not begun");
        }
        let subject = text("sub").filter(|sub| is_subject(sub));
        let subject = subject.ok_or("sub is missing or too long")?.to_owned();
        let methods: Vec<String> = texts(claims.get("amr"))
            .into_iter()
            .map(str::to_owned)
            .collect();
        let class = at.class_of(text("acr"), &methods).to_owned();
        let voucher = Voucher {
            source: at.name.clone(),
            authority: at.issuer.clone(),
            subject: subject.clone(),
            account: None,
            activity: "login.upstream".to_owned(),
            said_class: text("acr").map(|acr| acr.chars().take(MAX_TEXT_BYTES).collect()),
            at: authenticated_at(number("auth_time"), answer, now)?,
            used: Some(answer.used.clone()),
            methods: methods_of(&class),
            class,
        };
        Ok(UpstreamClaims {
            claims,
            told: Map::new(),
            subject,
            voucher,
        })
    }
}

/// When they logged in there. Who does not say so is never taken for somebody who has just done it: they may have been logged
/// in for as long as our own sessions last.
fn authenticated_at(
    auth_time: Option<i64>,
    answer: &UpstreamAnswer,
    now: Timestamp,
) -> Result<Timestamp, &'static str> {
    let outgoing = &answer.outgoing;
    let is_demanded = outgoing.errand.is_for_application();
    let demanded = outgoing.max_age.filter(|_| is_demanded);
    let Some(auth_time) = auth_time else {
        return match demanded {
            Some(_) => Err("auth_time is missing, and was asked for by max_age"),
            None => Ok(now - SESSION_LIFETIME),
        };
    };
    let at = Timestamp::from_unix_seconds(auth_time);
    if at > now + UPSTREAM_CLOCK_SKEW {
        return Err("auth_time is in the future");
    }
    if let Some(max_age) = demanded {
        let earliest = outgoing.begun_at - Duration::from_secs(max_age);
        if at + UPSTREAM_CLOCK_SKEW < earliest {
            return Err("the login there is older than what was asked for by max_age");
        }
    }
    Ok(at.min(now))
}

/// `amr` of a login here that was one of this class there.
fn methods_of(class: &str) -> Vec<String> {
    let several = (class >= ASSURANCE_TWO_FACTORS).then_some(METHOD_SEVERAL);
    let methods = [METHOD_FEDERATED].into_iter().chain(several);
    methods.map(str::to_owned).collect()
}
