//! Entities that policies name: do they exist?
//!
//! Cedar's validator knows types, not the directory: `Fleet::Service::"catlog"` is valid and matches nobody.
//! In a `permit` that is a rule without effect, in a `forbid` a hole.

use std::collections::HashSet;

use cedar_policy::{Entities, EntityUid};
use testudo_model::snapshot::Snapshot;

use crate::{
    bundle::LoadedPolicy,
    problem::PolicyProblem,
    vocabulary::{Kind, Vocabulary},
};

/// Similarity (Jaro-Winkler) from which a name is suggested.
const SIMILAR: f64 = 0.85;

/// Reports what operators' policies name and the directory does not have.
pub(crate) fn check<'p>(
    vocabulary: &Vocabulary,
    policies: impl IntoIterator<Item = &'p LoadedPolicy>,
    entities: &Entities,
    snapshot: &Snapshot,
    problems: &mut Vec<PolicyProblem>,
) {
    let own = policies.into_iter().filter(|loaded| !loaded.built_in);
    for loaded in own {
        let named: HashSet<EntityUid> = loaded.policy.entity_literals().into_iter().collect();
        let mut missing: Vec<_> = named
            .into_iter()
            .filter(|uid| entities.get(uid).is_none())
            .filter_map(|uid| Some((vocabulary.kind(uid.type_name())?, uid)))
            .collect();
        missing.sort_by(|(_, a), (_, b)| a.cmp(b));
        for (kind, uid) in missing {
            problems.extend(unknown_entity(kind, &uid, loaded, entities, snapshot));
        }
    }
}

fn unknown_entity(
    kind: Kind,
    uid: &EntityUid,
    loaded: &LoadedPolicy,
    entities: &Entities,
    snapshot: &Snapshot,
) -> Option<PolicyProblem> {
    let offset = loaded
        .text
        .find(&format!("\"{}\"", uid.id().escaped()))
        .unwrap_or(0);
    let place = Some(loaded.place_of(offset));
    let message = format!("no such entity: `{uid}`");
    let problem = match kind {
        // Cedar's own validation knows the traits.
        Kind::Trait => return None,
        // Declared in the fleet file beside the policies: a change leaves both consistent or is refused.
        Kind::Service | Kind::Api | Kind::Route | Kind::Audience => {
            PolicyProblem::error(place, "policy.unknown_entity", message)
        }
        // Come and go with the directory, which must never be kept from changing by a policy.
        Kind::User | Kind::Actor | Kind::Group | Kind::Role | Kind::ServiceGroup => {
            PolicyProblem::warning(place, "policy.unknown_entity", message)
        }
    };
    Some(match help(kind, uid, entities, snapshot) {
        Some(help) => problem.with_help(help),
        None => problem,
    })
}

fn help(kind: Kind, uid: &EntityUid, entities: &Entities, snapshot: &Snapshot) -> Option<String> {
    let id = uid.id().unescaped();
    if kind == Kind::User
        && snapshot
            .directory
            .subjects
            .iter()
            .any(|subject| subject.username == id)
    {
        return Some(format!(
            "users are named by the `sub` of their tokens; write `when {{ principal.username == \"{id}\" }}`, or use a group or role"
        ));
    }
    entities
        .iter()
        .map(|entity| entity.uid())
        .filter(|known| known.type_name() == uid.type_name())
        .map(|known| (strsim::jaro_winkler(known.id().unescaped(), id), known))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| format!("did you mean `{known}`?"))
}
