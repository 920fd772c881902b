//! A leg of a decision in words: which rule decided, or which rules came close and what they lacked.

use std::{collections::HashSet, fmt::Write};

use cedar_policy::{
    Context, Decision, Effect, EntityUid, Policy, PolicySet, Request,
    pst::{self, BinaryOp, Clause, Expr},
};
use testudo_model::event::{DeterminingPolicy, LegRecord};

use crate::{
    engine::{PolicyEngine, PolicyEntry},
    vocabulary::Action,
};

/// Near misses shown for a default deny.
const MAX_NEAR_MISSES: usize = 5;

impl PolicyEngine {
    /// Explains a recorded leg of a decision that saw `context`. The engine must be compiled from the snapshot
    /// the leg was decided under; about parties and policies that this snapshot does not have, nothing is guessed.
    pub fn explain(&self, leg: &LegRecord, context: Option<&str>) -> String {
        let mut text = String::new();
        let verdict = if leg.allowed { "allowed" } else { "denied" };
        let _ = writeln!(
            text,
            "{} leg {verdict}: {} {} {}",
            leg.leg, leg.principal, leg.action, leg.resource
        );
        for error in &leg.errors {
            let _ = writeln!(text, "  could not be evaluated, therefore denied: {error}");
        }
        let replay = Replay::new(self, leg, context);
        for policy in &leg.policies {
            self.explain_determining(policy, replay.as_ref(), &mut text);
        }
        if !leg.allowed && leg.policies.is_empty() && leg.errors.is_empty() {
            match &replay {
                Some(replay) => explain_default_deny(leg, &replay.near_misses(), &mut text),
                None => text.push_str(
                    "  no rule allowed it; the record cannot be replayed under this snapshot\n",
                ),
            }
        }
        text
    }

    fn explain_determining(
        &self,
        policy: &DeterminingPolicy,
        replay: Option<&Replay<'_>>,
        text: &mut String,
    ) {
        let entry = self.policy_by_id(&policy.id);
        let effect = match entry.map(|entry| entry.effect) {
            Some(Effect::Permit) => "permitted by",
            Some(Effect::Forbid) => "forbidden by",
            None => "decided by",
        };
        let _ = write!(
            text,
            "  {effect} `{}` ({}:{})",
            policy.id, policy.file, policy.line
        );
        if let Some(reason) = &policy.reason {
            let _ = write!(text, ": {reason}");
        }
        text.push('\n');
        if let (Some(entry), Some(replay)) = (entry, replay)
            && entry.effect == Effect::Forbid
            && let Some(exception) = replay.missing_exception(entry)
        {
            let _ = writeln!(text, "    what is missing: {exception}");
        }
    }
}

fn explain_default_deny(leg: &LegRecord, misses: &[NearMiss<'_>], text: &mut String) {
    if misses.is_empty() {
        let _ = writeln!(
            text,
            "  no rule allows anybody to {} this; one that would:",
            leg.action
        );
        let _ = writeln!(
            text,
            "    permit (principal == {}, action == Fleet::Action::\"{}\", resource == {});",
            leg.principal, leg.action, leg.resource
        );
        return;
    }
    let _ = writeln!(text, "  no rule allowed it; what came close:");
    for miss in misses.iter().take(MAX_NEAR_MISSES) {
        let DeterminingPolicy { id, file, line, .. } = &miss.entry.determining;
        let _ = writeln!(text, "    `{id}` ({file}:{line}) needs {}", miss.lacking);
    }
    if let Some(hidden) = misses
        .len()
        .checked_sub(MAX_NEAR_MISSES)
        .filter(|hidden| *hidden > 0)
    {
        let _ = writeln!(text, "    and {hidden} more");
    }
}

/// A permit for the same action and resource that was not satisfied.
struct NearMiss<'e> {
    entry: &'e PolicyEntry,
    about_principal: bool,
    lacking: String,
}

/// A recorded leg as a request again.
struct Replay<'e> {
    engine: &'e PolicyEngine,
    request: Request,
    action: Action,
    principal: EntityUid,
    resource: EntityUid,
}

impl<'e> Replay<'e> {
    /// `None` if the record names an action, entity or context that Cedar cannot read.
    fn new(engine: &'e PolicyEngine, leg: &LegRecord, context: Option<&str>) -> Option<Self> {
        let action = Action::ALL
            .into_iter()
            .find(|action| action.name() == leg.action)?;
        let principal: EntityUid = leg.principal.parse().ok()?;
        let resource: EntityUid = leg.resource.parse().ok()?;
        let action_uid: EntityUid = format!("Fleet::Action::\"{}\"", action.name())
            .parse()
            .ok()?;
        let context = Context::from_json_str(context.unwrap_or("{}"), None).ok()?;
        let request = Request::new(
            principal.clone(),
            action_uid,
            resource.clone(),
            context,
            None,
        )
        .ok()?;
        Some(Self {
            engine,
            request,
            action,
            principal,
            resource,
        })
    }

    /// Permits for the leg's action and resource with what they lacked; those about its principal first.
    fn near_misses(&self) -> Vec<NearMiss<'e>> {
        let Some(scopes) = self.engine.resource_scopes(self.action, &self.resource) else {
            return Vec::new();
        };
        let index = self.engine.index();
        let principal = index.principal(&self.principal, self.engine.entities());
        let about_principal: HashSet<_> = index
            .candidates(scopes, &principal)
            .flat_map(|bucket| &bucket.policies)
            .collect();
        let mut misses: Vec<_> = index
            .policies_for_anybody(scopes)
            .flat_map(|bucket| &bucket.policies)
            .filter_map(|number| Some((number, self.engine.policy(*number)?)))
            .filter(|(_, entry)| entry.effect == Effect::Permit)
            .filter_map(|(number, entry)| {
                let about_principal = about_principal.contains(number);
                let lacking = self.lacking(entry, about_principal)?;
                Some(NearMiss {
                    entry,
                    about_principal,
                    lacking,
                })
            })
            .collect();
        misses.sort_by_key(|miss| {
            (
                !miss.about_principal,
                miss.entry.built_in,
                &miss.entry.determining.id,
            )
        });
        misses
    }

    /// What a permit that did not apply wants to see.
    fn lacking(&self, entry: &PolicyEntry, about_principal: bool) -> Option<String> {
        let body = body(entry)?;
        if !about_principal {
            return Some(format!("`principal {}`", body.principal));
        }
        body.clauses().iter().find_map(|clause| match clause {
            Clause::When(condition) => self.first_false(condition).map(|part| format!("`{part}`")),
            Clause::Unless(condition) => self
                .holds(condition)
                .then(|| format!("that `{condition}` does not hold")),
        })
    }

    /// What the `unless` of a forbid that did apply wants to see.
    fn missing_exception(&self, entry: &PolicyEntry) -> Option<String> {
        body(entry)?
            .clauses()
            .iter()
            .find_map(|clause| match clause {
                Clause::Unless(condition) => {
                    self.first_false(condition).map(|part| format!("`{part}`"))
                }
                Clause::When(_) => None,
            })
    }

    /// The first part of a conjunction that does not hold.
    fn first_false<'x>(&self, condition: &'x Expr) -> Option<&'x Expr> {
        match condition {
            Expr::BinaryOp {
                op: BinaryOp::And,
                left,
                right,
            } => self.first_false(left).or_else(|| self.first_false(right)),
            _ => (!self.holds(condition)).then_some(condition),
        }
    }

    /// Whether a condition holds for the recorded request; one that cannot be evaluated does not.
    fn holds(&self, condition: &Expr) -> bool {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let Ok(policy) = Policy::parse(None, text) else {
            return false;
        };
        let Ok(set) = PolicySet::from_policies([policy]) else {
            return false;
        };
        let response =
            self.engine
                .authorizer()
                .is_authorized(&self.request, &set, self.engine.entities());
        response.decision() == Decision::Allow
    }
}

/// The policy's syntax tree as it was written.
fn body(entry: &PolicyEntry) -> Option<pst::Template> {
    Some(
        Policy::parse(None, &entry.text)
            .ok()?
            .to_pst()
            .ok()?
            .body()
            .clone(),
    )
}
