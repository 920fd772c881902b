//! Token exchange (RFC 8693): may an account have a token that is about somebody else, for one service?

use std::net::IpAddr;

use cedar_policy::Context;
use serde_json::json;
use testudo_model::{ServiceName, Timestamp};

use super::{PolicyEngine, Question, denial};
use crate::{
    decision::{Decision, ReasonCode},
    vocabulary::Action,
};

/// A token that an account wants.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// `sub` of the account that will act.
    pub actor: &'a str,
    /// `sub` of whom the token is about.
    pub subject: &'a str,
    /// The service it is for.
    pub service: &'a ServiceName,
    /// Its scopes.
    pub scopes: &'a [String],
    /// How many have exchanged it before.
    pub actors: usize,
    /// Where the account asks from.
    pub source_ip: IpAddr,
    /// When.
    pub now: Timestamp,
}

impl PolicyEngine {
    /// Decides whether a token is exchanged. Nobody may, unless a policy for `exchange` says so.
    pub fn decide_exchange(&self, exchange: &Exchange<'_>) -> Decision {
        let parties = (
            self.actors.get(exchange.actor),
            self.subjects.get(exchange.subject),
        );
        let (Some(actor), Some(subject)) = parties else {
            return Decision::deny_unasked(ReasonCode::UnknownSubject);
        };
        let Some(target) = self.targets.get(exchange.service) else {
            return Decision::deny_unasked(ReasonCode::UnknownResource);
        };
        let recorded = exchange.recorded(subject.uid.id().unescaped());
        let context = Context::from_json_str(&recorded, None).map_err(|error| error.to_string());
        let question = Question {
            leg: "exchange",
            principal: actor,
            action: Action::Exchange,
            resource: &target.audience,
            scopes: &target.exchange,
        };
        let leg = self.decide_leg(&question, &context);
        match denial(&leg, ReasonCode::UserLegDenied) {
            Some(reason) => Decision::deny(reason, [leg], recorded),
            None => Decision::allow([leg], recorded),
        }
    }
}

impl Exchange<'_> {
    /// The context as JSON in Cedar's own form, for the policies and for the record.
    fn recorded(&self, subject: &str) -> String {
        let extension = |function: &str, argument: String| json!({ "__extn": { "fn": function, "arg": argument } });
        json!({
            "subject": { "__entity": { "type": "Fleet::User", "id": subject } },
            "scopes": self.scopes,
            "actors": self.actors,
            "sourceIp": extension("ip", self.source_ip.to_canonical().to_string()),
            "now": extension("datetime", self.now.to_string()),
        })
        .to_string()
    }
}
