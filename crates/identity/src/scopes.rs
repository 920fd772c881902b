//! Scopes: space-separated on the wire, a set inside.

use std::collections::BTreeSet;

use testudo_model::Scope;

use crate::limits::MAX_SCOPES;

/// Asks for an ID token (OpenID Connect Core section 3.1.2.1).
pub(crate) const OPENID: &str = "openid";
/// Asks for a grant that outlives the session (OpenID Connect Core section 11).
pub(crate) const OFFLINE_ACCESS: &str = "offline_access";
/// Asks for the name claims.
pub(crate) const PROFILE: &str = "profile";
/// Asks for the mail address.
pub(crate) const EMAIL: &str = "email";

/// Asks for the groups of the user.
pub(crate) const GROUPS: &str = "groups";
/// Asks for the roles of the user.
pub(crate) const ROLES: &str = "roles";

/// Lets a receiver of signals see its streams and fetch what waits (CAEP Interoperability Profile 1.0 section 2.7.2).
pub(crate) const SSF_READ: &str = "ssf.read";
/// Lets a receiver of signals make and change streams.
pub(crate) const SSF_MANAGE: &str = "ssf.manage";

/// Scopes that every client of the fleet file may ask for: they open nothing but claims about the user who logs in.
pub(crate) const OPENID_SCOPES: [&str; 6] = [EMAIL, GROUPS, OFFLINE_ACCESS, OPENID, PROFILE, ROLES];
/// Those of them that a client may ask for which registered itself. What somebody may do in the fleet is not for it, unless
/// the fleet file says so.
pub(crate) const ANYBODYS_SCOPES: [&str; 4] = [EMAIL, OFFLINE_ACCESS, OPENID, PROFILE];

/// A set of scopes.
pub(crate) type ScopeSet = BTreeSet<Scope>;

/// Parses a `scope` parameter (RFC 6749 section 3.3). `None`: too many, or one is malformed.
pub(crate) fn parse(text: &str) -> Option<ScopeSet> {
    let mut scopes = ScopeSet::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        scopes.insert(word.parse().ok()?);
        if scopes.len() > MAX_SCOPES {
            return None;
        }
    }
    Some(scopes)
}

/// What of `granted` a `scope` parameter asks for; all of it without one. `None`: it asks for more, for nothing, or is
/// malformed.
pub(crate) fn narrowed(granted: ScopeSet, asked: Option<&str>) -> Option<ScopeSet> {
    let Some(asked) = asked else {
        return Some(granted);
    };
    parse(asked).filter(|asked| !asked.is_empty() && asked.is_subset(&granted))
}

/// The wire form.
pub(crate) fn join<'a>(scopes: impl IntoIterator<Item = &'a Scope>) -> String {
    scopes
        .into_iter()
        .map(Scope::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether `name` is in the set.
pub(crate) fn has(scopes: &ScopeSet, name: &str) -> bool {
    scopes.iter().any(|scope| scope.as_str() == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scopes_are_a_set_in_a_stable_order() {
        let scopes = parse("orders:write openid  orders:write").unwrap();
        assert_eq!(join(&scopes), "openid orders:write");
        assert!(has(&scopes, OPENID));
        assert!(parse("ok b\"ad").is_none());
        assert!(
            parse(
                &(0..=MAX_SCOPES)
                    .map(|n| format!("s{n} "))
                    .collect::<String>()
            )
            .is_none()
        );
    }

    #[test]
    fn nobody_gets_more_than_was_granted_and_nobody_nothing() {
        let granted = parse("orders:read orders:write").unwrap();
        let some = |text: &str| narrowed(granted.clone(), Some(text));
        assert_eq!(narrowed(granted.clone(), None), Some(granted.clone()));
        assert_eq!(some("orders:read"), parse("orders:read"));
        for refused in ["orders:read admin", "admin", " ", "b\"ad"] {
            assert_eq!(some(refused), None, "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_the_wire_form_gives_the_same_set(text in "[a-z:. ]{0,60}") {
            if let Some(scopes) = parse(&text) {
                prop_assert_eq!(parse(&join(&scopes)), Some(scopes));
            }
        }
    }
}
