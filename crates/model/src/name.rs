//! Names people give: services, operations, roles, scopes. Short, lower case, safe in URLs, logs and policies.

use std::{fmt, str::FromStr, sync::Arc};

use crate::text::serde_as_text;

/// Why a text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing there.
    #[error("the {kind} is empty")]
    Empty {
        /// What was to be named.
        kind: &'static str,
    },
    /// Longer than allowed.
    #[error("the {kind} has {length} bytes, {limit} are allowed")]
    TooLong {
        /// What was to be named.
        kind: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A character outside the alphabet.
    #[error("the {kind} `{text}` may hold {allowed} only and must start with a letter or digit")]
    BadCharacter {
        /// What was to be named.
        kind: &'static str,
        /// The text as given.
        text: String,
        /// The alphabet in words.
        allowed: &'static str,
    },
}

fn check(
    kind: &'static str,
    text: &str,
    limit: usize,
    extra: &[u8],
    allowed: &'static str,
) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty { kind });
    }
    if text.len() > limit {
        return Err(InvalidName::TooLong {
            kind,
            length: text.len(),
            limit,
        });
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let starts_well = text.bytes().next().is_some_and(plain);
    if starts_well
        && text
            .bytes()
            .all(|byte| plain(byte) || extra.contains(&byte))
    {
        Ok(())
    } else {
        Err(InvalidName::BadCharacter {
            kind,
            text: text.to_owned(),
            allowed,
        })
    }
}

macro_rules! name {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $limit:literal, $extra:literal, $allowed:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
        #[schemars(with = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check($kind, text, $limit, $extra, $allowed)?;
                Ok(Self(text.into()))
            }
        }

        serde_as_text!($name);

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, formatter)
            }
        }
    )*};
}

name! {
    /// A tenant: users, groups, roles and clients with an issuer of their own. The fleet itself is `default`.
    TenantName, "tenant name", 63, b"-", "a-z, 0-9 and `-`";
    /// A service as declared in the fleet file; a DNS label, since callers use it as a host name.
    ServiceName, "service name", 63, b"-", "a-z, 0-9 and `-`";
    /// An operation of a service, unique in it (`orders.create`); with the service it names a route.
    OperationId, "operation id", 128, b"-._", "a-z, 0-9, `-`, `.` and `_`";
    /// A role, granted to users and groups.
    RoleName, "role name", 64, b"-._:", "a-z, 0-9, `-`, `.`, `_` and `:`";
    /// A group of users.
    GroupName, "group name", 64, b"-._:", "a-z, 0-9, `-`, `.`, `_` and `:`";
    /// A group as policies name it: those of a tenant other than the default one come with its name (`acme/sales`).
    PolicyGroup, "group name", 128, b"-._:/", "a-z, 0-9, `-`, `.`, `_`, `:` and `/`";
    /// A role as policies name it, in the same way.
    PolicyRole, "role name", 128, b"-._:/", "a-z, 0-9, `-`, `.`, `_`, `:` and `/`";
    /// An OAuth scope.
    Scope, "scope", 64, b"-._:/", "a-z, 0-9, `-`, `.`, `_`, `:` and `/`";
    /// A login name, in lower case.
    Username, "username", 128, b"-._@+", "a-z, 0-9, `-`, `.`, `_`, `@` and `+`";
    /// An OAuth client or service account name.
    ClientName, "client name", 128, b"-._", "a-z, 0-9, `-`, `.` and `_`";
}

impl TenantName {
    /// The tenant of the fleet itself: its operators, its services, what its fleet file declares.
    pub fn default_tenant() -> Self {
        Self("default".into())
    }

    /// Whether it is the fleet's own.
    pub fn is_default(&self) -> bool {
        self.as_str() == "default"
    }

    /// How policies call what is called `name` here. No tenant can have a name of another: its own names have no `/`.
    fn scoped(&self, name: &str) -> Arc<str> {
        if self.is_default() {
            name.into()
        } else {
            format!("{self}/{name}").into()
        }
    }
}

impl PolicyGroup {
    /// A group of a tenant.
    pub fn of(tenant: &TenantName, group: &GroupName) -> Self {
        Self(tenant.scoped(group.as_str()))
    }
}

impl PolicyRole {
    /// A role of a tenant.
    pub fn of(tenant: &TenantName, role: &RoleName) -> Self {
        Self(tenant.scoped(role.as_str()))
    }
}

/// Whose users a service is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, schemars::JsonSchema)]
#[schemars(with = "String")]
pub enum TenantPattern {
    /// Those of every tenant: `*`.
    Any,
    /// Those of one.
    One(TenantName),
}

impl TenantPattern {
    /// As text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Any => "*",
            Self::One(tenant) => tenant.as_str(),
        }
    }
}

impl FromStr for TenantPattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text {
            "*" => Ok(Self::Any),
            name => name.parse().map(Self::One),
        }
    }
}

serde_as_text!(TenantPattern);

impl OperationId {
    /// The operation of a service whose bytes are carried unread.
    pub fn connect() -> Self {
        Self("connect".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_not_repaired() {
        assert!("orders".parse::<ServiceName>().is_ok());
        for bad in [
            "",
            "Orders",
            "-orders",
            "orders/x",
            "ord ers",
            "örders",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
        assert!("orders.create".parse::<OperationId>().is_ok());
    }

    #[test]
    fn what_a_tenant_names_is_not_what_another_names() {
        let group: GroupName = "sales".parse().unwrap();
        let names = ["default", "acme", "globex"].map(|tenant| {
            let name = PolicyGroup::of(&tenant.parse().unwrap(), &group);
            assert_eq!(name.as_str().parse::<PolicyGroup>().unwrap(), name);
            name.to_string()
        });
        assert_eq!(names, ["sales", "acme/sales", "globex/sales"]);
        assert!("acme/sales".parse::<GroupName>().is_err());
        assert!("acme/sales".parse::<RoleName>().is_err());
    }
}
