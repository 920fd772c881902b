//! Checks of what is demanded of the authenticators of passkeys.

use super::{
    PasskeyRules, check::Context, declared::Attestation, document::Cursor, file::PasskeySection,
};

/// Models that may be listed.
const MAX_MODELS: usize = 1_000;

pub(super) fn check(
    section: &PasskeySection,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> PasskeyRules {
    let says_which = !section.allowed_aaguids.is_empty() || section.roots_file.is_some();
    match section.attestation {
        Attestation::Direct if !says_which => {
            context
                .problems
                .error(
                    "fleet.attestation",
                    at.key("attestation").place(),
                    "nothing says which authenticators may come",
                )
                .help("add `allowed_aaguids`, `roots_file` or both, or remove `attestation`");
        }
        Attestation::None if says_which => {
            let key = match section.roots_file {
                Some(_) => "roots_file",
                None => "allowed_aaguids",
            };
            context
                .problems
                .error(
                    "fleet.attestation",
                    at.key(key).place(),
                    "authenticators are not asked of which model they are",
                )
                .help("add `attestation = \"direct\"`");
        }
        Attestation::None | Attestation::Direct => {}
    }
    if section.allowed_aaguids.len() > MAX_MODELS {
        let message = format!("there may be {MAX_MODELS} models");
        let place = at.key("allowed_aaguids").place();
        context.problems.error("fleet.out_of_range", place, message);
    }
    PasskeyRules {
        attestation: section.attestation,
        allowed_aaguids: section.allowed_aaguids.clone(),
        roots_pem: context.certificates(section.roots_file.as_deref(), at.key("roots_file")),
    }
}
