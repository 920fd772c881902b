//! What can be done to a fleet by those who administer it.

use std::fmt;

/// A Cedar action of administration: `Testudo::Action::"user:read"`. Each operation of the admin API has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AdminAction {
    /// See API keys: never themselves.
    ApiKeyRead,
    /// Make, rotate and revoke them: whoever makes one may do what its service account may.
    ApiKeyWrite,
    /// Take the ledger out of the control plane.
    AuditExport,
    /// Search, prove and verify the ledger, and have decisions explained.
    AuditRead,
    /// See clients.
    ClientRead,
    /// Make, change, disable and delete clients, and give them new secrets.
    ClientWrite,
    /// See passkeys of users, and their accounts elsewhere.
    CredentialRead,
    /// Set passwords, remove second factors and passkeys, invite, connect accounts elsewhere.
    CredentialWrite,
    /// Put a fleet file in force, with its policies: whoever may do this may do everything.
    FleetApply,
    /// See groups and who is in them.
    GroupRead,
    /// Make, describe and delete groups.
    GroupWrite,
    /// See identity providers elsewhere.
    IdentityProviderRead,
    /// Take over the people of another identity provider.
    ImportWrite,
    /// New keys for the store and for workloads.
    KeyRotate,
    /// Let a proxy join the fleet.
    ProxyJoin,
    /// See proxies and join tokens.
    ProxyRead,
    /// Take a workload's identity away, and give it back.
    ProxyRevoke,
    /// See tokens to register clients with.
    RegistrationRead,
    /// Make and delete them.
    RegistrationWrite,
    /// Say who has which roles and groups, and what clearance.
    RoleGrant,
    /// See roles.
    RoleRead,
    /// Make and delete roles.
    RoleWrite,
    /// Provision people (SCIM).
    ScimProvision,
    /// See service accounts.
    ServiceAccountRead,
    /// Make, change, disable and delete service accounts.
    ServiceAccountWrite,
    /// See sessions.
    SessionRead,
    /// End one.
    SessionRevoke,
    /// See streams of signals to other systems (SSF).
    SignalRead,
    /// Disable, enable and delete them.
    SignalWrite,
    /// See how the fleet is.
    StatusRead,
    /// See tenants.
    TenantRead,
    /// Make, change and disable tenants.
    TenantWrite,
    /// Have the story of a token told.
    TokenRead,
    /// Disable and enable users.
    UserDisable,
    /// See users.
    UserRead,
    /// Make, describe and delete users.
    UserWrite,
}

/// The group of actions that an action is in: `Testudo::Action::"read"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdminActionGroup {
    /// See what is there.
    Read,
    /// Change it.
    Write,
    /// Say who comes and goes.
    Provision,
}

impl AdminAction {
    /// All of them.
    pub const ALL: [Self; 36] = [
        Self::ApiKeyRead,
        Self::ApiKeyWrite,
        Self::AuditExport,
        Self::AuditRead,
        Self::ClientRead,
        Self::ClientWrite,
        Self::CredentialRead,
        Self::CredentialWrite,
        Self::FleetApply,
        Self::GroupRead,
        Self::GroupWrite,
        Self::IdentityProviderRead,
        Self::ImportWrite,
        Self::KeyRotate,
        Self::ProxyJoin,
        Self::ProxyRead,
        Self::ProxyRevoke,
        Self::RegistrationRead,
        Self::RegistrationWrite,
        Self::RoleGrant,
        Self::RoleRead,
        Self::RoleWrite,
        Self::ScimProvision,
        Self::ServiceAccountRead,
        Self::ServiceAccountWrite,
        Self::SessionRead,
        Self::SessionRevoke,
        Self::SignalRead,
        Self::SignalWrite,
        Self::StatusRead,
        Self::TenantRead,
        Self::TenantWrite,
        Self::TokenRead,
        Self::UserDisable,
        Self::UserRead,
        Self::UserWrite,
    ];

    /// Its id: what is administered, and how.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ApiKeyRead => "api-key:read",
            Self::ApiKeyWrite => "api-key:write",
            Self::AuditExport => "audit:export",
            Self::AuditRead => "audit:read",
            Self::ClientRead => "client:read",
            Self::ClientWrite => "client:write",
            Self::CredentialRead => "credential:read",
            Self::CredentialWrite => "credential:write",
            Self::FleetApply => "fleet:apply",
            Self::GroupRead => "group:read",
            Self::GroupWrite => "group:write",
            Self::IdentityProviderRead => "identity-provider:read",
            Self::ImportWrite => "import:write",
            Self::KeyRotate => "key:rotate",
            Self::ProxyJoin => "proxy:join",
            Self::ProxyRead => "proxy:read",
            Self::ProxyRevoke => "proxy:revoke",
            Self::RegistrationRead => "registration:read",
            Self::RegistrationWrite => "registration:write",
            Self::RoleGrant => "role:grant",
            Self::RoleRead => "role:read",
            Self::RoleWrite => "role:write",
            Self::ScimProvision => "scim:provision",
            Self::ServiceAccountRead => "service-account:read",
            Self::ServiceAccountWrite => "service-account:write",
            Self::SessionRead => "session:read",
            Self::SessionRevoke => "session:revoke",
            Self::SignalRead => "signal-stream:read",
            Self::SignalWrite => "signal-stream:write",
            Self::StatusRead => "status:read",
            Self::TenantRead => "tenant:read",
            Self::TenantWrite => "tenant:write",
            Self::TokenRead => "token:read",
            Self::UserDisable => "user:disable",
            Self::UserRead => "user:read",
            Self::UserWrite => "user:write",
        }
    }

    /// What it is done to: what stands before the colon.
    pub fn kind(self) -> &'static str {
        self.name().split(':').next().unwrap_or_default()
    }

    /// The group it is in.
    pub const fn group(self) -> AdminActionGroup {
        match self {
            Self::ApiKeyRead
            | Self::AuditRead
            | Self::ClientRead
            | Self::CredentialRead
            | Self::GroupRead
            | Self::IdentityProviderRead
            | Self::ProxyRead
            | Self::RegistrationRead
            | Self::RoleRead
            | Self::ServiceAccountRead
            | Self::SessionRead
            | Self::SignalRead
            | Self::StatusRead
            | Self::TenantRead
            | Self::TokenRead
            | Self::UserRead => AdminActionGroup::Read,
            Self::ScimProvision => AdminActionGroup::Provision,
            Self::ApiKeyWrite
            | Self::AuditExport
            | Self::ClientWrite
            | Self::CredentialWrite
            | Self::FleetApply
            | Self::GroupWrite
            | Self::ImportWrite
            | Self::KeyRotate
            | Self::ProxyJoin
            | Self::ProxyRevoke
            | Self::RegistrationWrite
            | Self::RoleGrant
            | Self::RoleWrite
            | Self::ServiceAccountWrite
            | Self::SessionRevoke
            | Self::SignalWrite
            | Self::TenantWrite
            | Self::UserDisable
            | Self::UserWrite => AdminActionGroup::Write,
        }
    }
}

impl AdminActionGroup {
    /// Its id.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Provision => "provision",
        }
    }
}

impl fmt::Display for AdminAction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
