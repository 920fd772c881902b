//! Checks of issuers outside the fleet, and of the accounts that they vouch for.

use std::collections::BTreeSet;

use testudo_model::TrustDomain;

use super::{
    ExternalWorkload, TrustedIdentity, TrustedIssuer, TrustedKeys,
    check::Context,
    document::Cursor,
    file::{FleetFile, ServiceAccountSection, TrustedIssuerSection},
    problem::Problems,
};

/// Where an issuer says where its keys are (OpenID Connect Discovery 1.0 section 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

pub(super) fn check(
    file: &FleetFile,
    tree: Cursor<'_>,
    problems: &mut Problems<'_>,
) -> Vec<TrustedIssuer> {
    let at = tree.key("trusted_issuers");
    let mut seen = BTreeSet::new();
    let issuers = file.trusted_issuers.iter().filter_map(|(name, section)| {
        let at = at.key(name);
        let issuer = trusted_issuer(file, name, section, at, problems)?;
        let identity = match &issuer.identity {
            TrustedIdentity::Issuer(issuer) => issuer.clone(),
            TrustedIdentity::TrustDomain(domain) => domain.to_string(),
        };
        if !seen.insert(identity.clone()) {
            problems
                .error(
                    "fleet.trusted_issuer",
                    at.key_place(),
                    format!("`{identity}` is there under another name already"),
                )
                .help("keep one of them");
        }
        Some(issuer)
    });
    issuers.collect()
}

fn trusted_issuer(
    file: &FleetFile,
    name: &str,
    section: &TrustedIssuerSection,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) -> Option<TrustedIssuer> {
    let identity = match (&section.issuer, &section.trust_domain) {
        (Some(issuer), None) => TrustedIdentity::Issuer(issuer.clone()),
        (None, Some(domain)) => {
            report_own_domain(domain, &file.trust_domain, at, problems);
            TrustedIdentity::TrustDomain(domain.clone())
        }
        (Some(_), Some(_)) => {
            problems
                .error(
                    "fleet.trusted_issuer",
                    at.key("trust_domain").place(),
                    "there is a `trust_domain` beside `issuer`",
                )
                .help(
                    "remove one: tokens are known by `iss`, JWT-SVIDs by the trust domain of `sub`",
                );
            return None;
        }
        (None, None) => {
            problems
                .error(
                    "fleet.trusted_issuer",
                    at.key_place(),
                    "nothing says how its tokens name it",
                )
                .help("add `issuer`, the `iss` of its tokens, or `trust_domain` for JWT-SVIDs");
            return None;
        }
    };
    Some(TrustedIssuer {
        name: name.to_owned(),
        keys: keys(section, &identity, file.outbound.allow_http, at, problems)?,
        audience: section.audience.clone(),
        identity,
    })
}

/// Workloads of the fleet prove themselves with their certificates, in `spiffe`.
fn report_own_domain(
    domain: &TrustDomain,
    own: &TrustDomain,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    if domain == own {
        problems
            .error(
                "fleet.trusted_issuer",
                at.key("trust_domain").place(),
                "this is the trust domain of the fleet itself",
            )
            .help("give the account `spiffe`: services of the fleet have certificates");
    }
}

fn keys(
    section: &TrustedIssuerSection,
    identity: &TrustedIdentity,
    allow_http: bool,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) -> Option<TrustedKeys> {
    let is_called = |address: &str| {
        address.starts_with("https://") || (allow_http && address.starts_with("http://"))
    };
    let (keys, place) = match (&section.jwks, &section.jwks_uri, identity) {
        (Some(_), Some(_), _) => {
            problems
                .error(
                    "fleet.trusted_issuer",
                    at.key("jwks_uri").place(),
                    "there is a `jwks_uri` beside `jwks`",
                )
                .help("remove one of them");
            return None;
        }
        (Some(jwks), None, _) => return Some(TrustedKeys::Given(jwks.clone())),
        (None, Some(uri), _) => (TrustedKeys::JwksUri(uri.clone()), "jwks_uri"),
        (None, None, TrustedIdentity::Issuer(issuer)) => {
            let metadata = format!("{}{DISCOVERY}", issuer.trim_end_matches('/'));
            (TrustedKeys::Discovery(metadata), "issuer")
        }
        (None, None, TrustedIdentity::TrustDomain(_)) => {
            problems
                .error(
                    "fleet.trusted_issuer",
                    at.key_place(),
                    "nothing says where the keys of this trust domain are",
                )
                .help("add `jwks_uri`, the address of its bundle, or the bundle as `jwks`");
            return None;
        }
    };
    let (TrustedKeys::JwksUri(address)
    | TrustedKeys::Discovery(address)
    | TrustedKeys::Given(address)) = &keys;
    if !is_called(address) {
        problems
            .error(
                "fleet.trusted_issuer",
                at.key(place).place(),
                "its keys cannot be fetched from this address: it is not https",
            )
            .why("who is on the way could give keys of their own")
            .help("give the keys as `jwks`, or an https address as `jwks_uri`");
        return None;
    }
    Some(keys)
}

/// The workloads outside the fleet that may act as an account.
pub(super) fn external(
    section: &ServiceAccountSection,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Vec<ExternalWorkload> {
    let has_rules = !section.external.is_empty();
    for (key, is_there) in [
        ("secret", section.secret.is_some()),
        ("spiffe", section.spiffe.is_some()),
        ("jwks", section.jwks.is_some()),
    ] {
        if is_there && has_rules {
            context
                .problems
                .error(
                    "fleet.two_credentials",
                    at.key(key).place(),
                    format!("there is a `{key}` beside `external`"),
                )
                .why("the weaker of the two would decide")
                .help(format!("remove `{key}`, or make another account for it"));
        }
    }
    let rules = section.external.iter().enumerate().map(|(index, rule)| {
        let at = at.key("external").index(index);
        let place = at.key("issuer").place();
        context.expect_declared("trusted_issuers", "trusted issuer", &rule.issuer, place);
        if rule.subject.is_none() && rule.claims.is_empty() {
            context
                .problems
                .error(
                    "fleet.external",
                    at.place(),
                    "this is everybody whom the issuer knows",
                )
                .help("add `subject`, or `claims` that only the right ones have");
        }
        ExternalWorkload {
            issuer: rule.issuer.clone(),
            subject: rule.subject.clone(),
            claims: rule.claims.clone(),
        }
    });
    rules.collect()
}
