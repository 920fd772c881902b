//! The people and clients of a fleet file in the provider's terms, with what every fleet has.

use std::{collections::BTreeSet, sync::Arc};

use testudo_identity::{
    AssuranceRule, AuthMethod, BreachedListError, BreachedPasswords, ClientKind, ClientLogout,
    ClientPolicy, ClientProfile, ClientSigning, ConsentRule, ExternalWorkload, Fault, GrantType,
    GroupClaim, IdentityProvider, IssuerIdentity, KeySource, NewPassword, NewSecret, NewUsers,
    PasswordRules, Provider, RedirectKind, RedirectUri, RegistrationPolicy, Seed, SeedClient,
    SeedServiceAccount, SeedUser, ServiceAccountProfile, SignalReceiver, SignatureAlgorithm,
    TrustedIssuer, UpstreamAuthentication, UserDirectory, UserProfile, webauthn::AttestationPolicy,
};
use testudo_model::{
    ClientName, GroupName, PolicyGroup, PolicyRole, Redacted, RoleName, Scope, TenantName,
    snapshot::Directory,
};
use testudo_runtime::fleet::{
    self, Attestation, Fleet, NewUserRule, PasskeyRules, RegistrationAuthMethod,
    RegistrationSection, SeedAuthentication, SeedCredential, UpstreamAuthMethod,
};
use testudo_trust::{AttestationRoots, X509Error};

use crate::{
    api::{ADMIN_ROLE, ADMIN_SCOPE, AUDITOR_ROLE},
    client::CLI_CLIENT,
};

/// Where the command line waits for the browser: loopback, any port (RFC 8252 section 7.3).
const CLI_REDIRECT: &str = "http://127.0.0.1/callback";

/// Which passwords people may choose. It opens the list of stolen ones.
///
/// # Errors
/// The list cannot be used.
pub fn password_rules(rules: &fleet::PasswordRules) -> Result<PasswordRules, BreachedListError> {
    let breached = rules.breached_file.as_deref();
    let breached = breached.map(BreachedPasswords::open).transpose()?;
    Ok(PasswordRules {
        min_score: rules.min_score,
        breached: breached.map(Arc::new),
    })
}

/// What the provider shall hold for `fleet`.
pub fn seed_of(fleet: &Fleet) -> Seed {
    let mut clients: Vec<SeedClient> = fleet.clients.iter().map(client).collect();
    clients.extend(command_line(fleet));
    Seed {
        roles: roles_of(fleet),
        groups: fleet.groups.clone(),
        users: fleet.users.iter().map(user).collect(),
        service_accounts: fleet.service_accounts.iter().map(service_account).collect(),
        clients,
        registration: fleet.registration.as_ref().map(registration),
    }
}

fn registration(section: &RegistrationSection) -> RegistrationPolicy {
    let grants = section.grant_types.iter().copied().map(grant);
    let methods = section.auth_methods.iter().map(|method| match method {
        RegistrationAuthMethod::None => AuthMethod::None,
        RegistrationAuthMethod::ClientSecretBasic => AuthMethod::ClientSecretBasic,
        RegistrationAuthMethod::ClientSecretPost => AuthMethod::ClientSecretPost,
        RegistrationAuthMethod::PrivateKeyJwt => AuthMethod::PrivateKeyJwt,
    });
    let redirects = section.redirects.iter().map(|kind| match kind {
        fleet::RedirectKind::Https => RedirectKind::Https,
        fleet::RedirectKind::Loopback => RedirectKind::Loopback,
        fleet::RedirectKind::PrivateUse => RedirectKind::PrivateUse,
    });
    RegistrationPolicy {
        grants: grants.collect(),
        scopes: section.scopes.clone(),
        auth_methods: methods.collect(),
        redirects: redirects.collect(),
        redirect_hosts: section.redirect_hosts.clone(),
        pkce_optional: section.pkce_optional,
        client_lifetime_seconds: section.client_lifetime.map(|life| life.millis() / 1000),
    }
}

/// The fleet's roles and the two that administer it.
fn roles_of(fleet: &Fleet) -> Vec<RoleName> {
    let all = fleet.roles.iter().cloned().chain(built_in_roles());
    let roles: BTreeSet<RoleName> = all.collect();
    roles.into_iter().collect()
}

fn built_in_roles() -> impl Iterator<Item = RoleName> {
    let roles = [ADMIN_ROLE, AUDITOR_ROLE].into_iter();
    roles.filter_map(|role| role.parse().ok())
}

/// The groups and roles of the fleet as policies name them.
pub fn directory_of(fleet: &Fleet) -> Directory {
    let groups = fleet.groups.iter();
    Directory {
        subjects: Vec::new(),
        groups: groups
            .map(|(group, parents)| (policy_group(group), policy_groups(parents)))
            .collect(),
        roles: policy_roles(&roles_of(fleet)),
        api_keys: Vec::new(),
    }
}

/// Groups of the fleet itself as policies name them.
pub fn policy_groups(groups: &[GroupName]) -> Vec<PolicyGroup> {
    groups.iter().map(policy_group).collect()
}

/// Roles of the fleet itself as policies name them.
pub fn policy_roles(roles: &[RoleName]) -> Vec<PolicyRole> {
    let tenant = TenantName::default_tenant();
    let roles = roles.iter();
    roles.map(|role| PolicyRole::of(&tenant, role)).collect()
}

fn policy_group(group: &GroupName) -> PolicyGroup {
    PolicyGroup::of(&TenantName::default_tenant(), group)
}

/// What the fleet demands of authenticators.
///
/// Errors: the roots are no certificates.
pub fn attestation_policy(rules: &PasskeyRules) -> Result<AttestationPolicy, X509Error> {
    if rules.attestation == Attestation::None {
        return Ok(AttestationPolicy::None);
    }
    let roots = rules.roots_pem.as_deref().map(AttestationRoots::from_pem);
    Ok(AttestationPolicy::Direct {
        models: rules.allowed_aaguids.iter().copied().collect(),
        roots: roots.transpose()?,
    })
}

fn user(user: &fleet::SeedUser) -> SeedUser {
    SeedUser {
        username: user.username.clone(),
        profile: UserProfile {
            display_name: user.name.clone(),
            email: user.email.clone(),
            email_verified: user.email_verified,
            clearance: user.clearance,
            groups: user.groups.clone(),
            roles: user.roles.clone(),
        },
        disabled: user.disabled,
        password: match &user.password {
            SeedCredential::Generated => NewPassword::Generate,
            SeedCredential::Secret(secret) => NewPassword::Given(secret.clone()),
            SeedCredential::Hash(hash) => NewPassword::Hash(hash.clone()),
        },
        totp: None,
    }
}

fn service_account(account: &fleet::SeedServiceAccount) -> SeedServiceAccount {
    let mut profile = ServiceAccountProfile {
        description: None,
        clearance: account.clearance,
        groups: account.groups.clone(),
        roles: account.roles.clone(),
        scopes: account.scopes.clone(),
        workloads: Vec::new(),
        jwks: None,
        external: account.external.iter().map(external_workload).collect(),
        signals: account.signals.as_ref().map(signal_receiver),
    };
    let secret = match &account.authentication {
        None => NewSecret::None,
        Some(SeedAuthentication::Secret(credential)) => secret(credential),
        Some(SeedAuthentication::Workload(id)) => {
            profile.workloads.push(id.clone());
            NewSecret::None
        }
        Some(SeedAuthentication::Keys(jwks)) => {
            profile.jwks = Some(jwks.clone());
            NewSecret::None
        }
    };
    SeedServiceAccount {
        name: account.name.clone(),
        profile,
        disabled: account.disabled,
        secret,
    }
}

fn signal_receiver(section: &fleet::SignalsSection) -> SignalReceiver {
    SignalReceiver {
        signed_response_alg: algorithm(section.signed_response_alg),
        audience: section.audience.clone(),
    }
}

fn external_workload(workload: &fleet::ExternalWorkload) -> ExternalWorkload {
    ExternalWorkload {
        issuer: workload.issuer.clone(),
        subject: workload.subject.clone(),
        claims: workload.claims.clone(),
    }
}

/// The issuers outside the fleet that `fleet` trusts.
pub fn trusted_issuers(fleet: &Fleet) -> Vec<TrustedIssuer> {
    let issuer = |declared: &fleet::TrustedIssuer| TrustedIssuer {
        name: declared.name.clone(),
        identity: match &declared.identity {
            fleet::TrustedIdentity::Issuer(issuer) => IssuerIdentity::Issuer(issuer.clone()),
            fleet::TrustedIdentity::TrustDomain(domain) => {
                IssuerIdentity::TrustDomain(domain.clone())
            }
        },
        audience: declared.audience.clone(),
        keys: match &declared.keys {
            fleet::TrustedKeys::Given(jwks) => KeySource::Given(jwks.clone()),
            fleet::TrustedKeys::JwksUri(uri) => KeySource::JwksUri(uri.clone()),
            fleet::TrustedKeys::Discovery(uri) => KeySource::Discovery(uri.clone()),
        },
    };
    fleet.trusted_issuers.iter().map(issuer).collect()
}

/// Where people may log in elsewhere.
pub fn identity_providers(fleet: &Fleet) -> Vec<IdentityProvider> {
    fleet
        .identity_providers
        .iter()
        .map(identity_provider)
        .collect()
}

fn identity_provider(declared: &fleet::IdentityProvider) -> IdentityProvider {
    let fleet::IdentityProvider {
        name,
        section,
        secret,
    } = declared;
    let secret = || {
        secret
            .clone()
            .unwrap_or_else(|| Redacted::new(String::new()))
    };
    IdentityProvider {
        name: name.clone(),
        label: section.label.clone().unwrap_or_else(|| name.clone()),
        issuer: section.issuer.clone(),
        client_id: section.client_id.clone(),
        authentication: match section.authentication {
            UpstreamAuthMethod::ClientSecretBasic => UpstreamAuthentication::SecretBasic(secret()),
            UpstreamAuthMethod::ClientSecretPost => UpstreamAuthentication::SecretPost(secret()),
            UpstreamAuthMethod::PrivateKeyJwt => UpstreamAuthentication::PrivateKeyJwt,
        },
        scopes: section.scopes.clone(),
        new_users: match section.new_users {
            NewUserRule::Link => NewUsers::Link,
            NewUserRule::Create => NewUsers::Create,
        },
        trusts_email: section.trust_email,
        username_claim: section.username_claim.clone(),
        groups: section.groups.as_ref().map(|groups| GroupClaim {
            claim: groups.claim.clone(),
            map: groups.map.clone(),
        }),
        assurance: section.assurance.iter().map(assurance).collect(),
    }
}

fn assurance(rule: &fleet::AssuranceSection) -> AssuranceRule {
    AssuranceRule {
        acr: rule.acr.clone(),
        amr: rule.amr.clone(),
        class: rule.class.to_string(),
    }
}

/// The directories whose people may log in.
pub fn user_directories(fleet: &Fleet) -> Vec<UserDirectory> {
    let directory = |declared: &fleet::Directory| UserDirectory {
        name: declared.name.clone(),
        trusts_email: declared.section.trust_email,
        groups: declared.section.groups.as_ref().map(|groups| {
            let lower =
                |(theirs, ours): (&String, &Vec<GroupName>)| (theirs.to_lowercase(), ours.clone());
            groups.map.iter().map(lower).collect()
        }),
    };
    fleet.directories.iter().map(directory).collect()
}

fn client(client: &fleet::SeedClient) -> SeedClient {
    let kind = match client.authentication {
        None => ClientKind::Public,
        Some(_) => ClientKind::Confidential,
    };
    let (secret, workload, jwks) = match &client.authentication {
        None => (NewSecret::None, None, None),
        Some(SeedAuthentication::Secret(credential)) => (secret(credential), None, None),
        Some(SeedAuthentication::Workload(id)) => (NewSecret::None, Some(id.clone()), None),
        Some(SeedAuthentication::Keys(jwks)) => (NewSecret::None, None, Some(jwks.clone())),
    };
    SeedClient {
        client_id: client.name.clone(),
        profile: ClientProfile {
            display_name: client.name.to_string(),
            kind,
            redirect_uris: parsed(&client.redirect_uris),
            grants: client.grant_types.iter().copied().map(grant).collect(),
            scopes: client.scopes.clone(),
            workload,
            jwks,
            policy: ClientPolicy {
                require_pushed_authorization_requests: client.require_pushed_authorization_requests,
                require_signed_request_object: client.require_signed_request_object,
                dpop_bound_access_tokens: client.dpop_bound_access_tokens,
                pkce_optional: client.pkce_optional,
                fapi2_security_profile: client.fapi2_security_profile,
                consent: match client.consent {
                    fleet::ConsentRule::Implied => ConsentRule::Implied,
                    fleet::ConsentRule::Required => ConsentRule::Required,
                },
            },
            signing: ClientSigning {
                id_token_signed_response_alg: algorithm(client.id_token_signed_response_alg),
                userinfo_signed_response_alg: client.userinfo_signed_response_alg.map(algorithm),
            },
            logout: ClientLogout {
                post_logout_redirect_uris: parsed(&client.post_logout_redirect_uris),
                backchannel_logout_uri: client
                    .backchannel_logout_uri
                    .as_deref()
                    .and_then(|uri| uri.parse().ok()),
                backchannel_logout_session_required: client.backchannel_logout_session_required,
            },
        },
        secret,
    }
}

const fn algorithm(declared: fleet::SignatureAlgorithm) -> SignatureAlgorithm {
    match declared {
        fleet::SignatureAlgorithm::Es256 => SignatureAlgorithm::Es256,
        fleet::SignatureAlgorithm::Rs256 => SignatureAlgorithm::Rs256,
    }
}

/// The fleet file was checked: all of them are good.
fn parsed(uris: &[String]) -> Vec<RedirectUri> {
    uris.iter().filter_map(|uri| uri.parse().ok()).collect()
}

fn secret(credential: &SeedCredential) -> NewSecret {
    match credential {
        SeedCredential::Generated => NewSecret::Generate,
        SeedCredential::Secret(secret) => NewSecret::Given(secret.clone()),
        SeedCredential::Hash(hash) => NewSecret::Hash(hash.clone()),
    }
}

const fn grant(grant: fleet::GrantType) -> GrantType {
    match grant {
        fleet::GrantType::AuthorizationCode => GrantType::AuthorizationCode,
        fleet::GrantType::RefreshToken => GrantType::RefreshToken,
        fleet::GrantType::ClientCredentials => GrantType::ClientCredentials,
        fleet::GrantType::DeviceCode => GrantType::DeviceCode,
    }
}

/// What every tenant has of its fleet: the roles for administration, the command line, the rules of registration.
///
/// # Errors
/// The store fails.
pub fn tenant_seed(own: &Provider) -> Result<Seed, Fault> {
    let command_line = CLI_CLIENT.parse().ok().and_then(|client_id: ClientName| {
        let stored = own.client(&client_id).ok()?;
        command_line_with(stored.record.scopes)
    });
    Ok(Seed {
        roles: built_in_roles().collect(),
        clients: command_line.into_iter().collect(),
        registration: own.registration_policy()?,
        ..Seed::default()
    })
}

/// The command line: a public client that may ask for every scope the fleet's routes know, and to administer.
fn command_line(fleet: &Fleet) -> Option<SeedClient> {
    let routes = fleet.services.iter().flat_map(|service| &service.routes);
    let scopes: BTreeSet<Scope> = routes
        .flat_map(|route| route.scopes.iter().cloned())
        .chain(ADMIN_SCOPE.parse())
        .collect();
    command_line_with(scopes.into_iter().collect())
}

fn command_line_with(scopes: Vec<Scope>) -> Option<SeedClient> {
    let client_id: ClientName = CLI_CLIENT.parse().ok()?;
    Some(SeedClient {
        client_id,
        profile: ClientProfile {
            display_name: "the testudo command line".to_owned(),
            kind: ClientKind::Public,
            redirect_uris: CLI_REDIRECT.parse::<RedirectUri>().into_iter().collect(),
            grants: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
            scopes,
            ..ClientProfile::default()
        },
        secret: NewSecret::None,
    })
}
