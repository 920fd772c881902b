//! Which facts of a call policies read.
//!
//! Building a context costs more than deciding, and a decision may be cached exactly as long as the facts it
//! was read from stay the same. So the engine knows for each policy which facts it reads.

use std::sync::Arc;

use cedar_policy::{
    Policy,
    pst::{Clause, Expr, Var},
};

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

    pub(crate) const fn intersects(self, others: Self) -> bool {
        self.0 & others.0 != 0
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
