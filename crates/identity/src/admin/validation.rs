//! Checks of fields that several kinds of record have.

use testudo_model::{GroupName, RoleName};
use testudo_trust::JwkSet;

use super::AdminError;
use crate::{
    Provider,
    limits::{MAX_CLIENT_KEY_SET_BYTES, MAX_MEMBERSHIPS, MAX_TEXT_BYTES},
    records::{Group, Role},
};

/// Text for people: one line, not too long.
pub(crate) fn check_text(field: &'static str, text: Option<&str>) -> Result<(), AdminError> {
    let text = text.unwrap_or("");
    if text.len() > MAX_TEXT_BYTES {
        return Err(AdminError::invalid(
            field,
            format!("has more than {MAX_TEXT_BYTES} bytes"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(AdminError::invalid(field, "has control characters"));
    }
    Ok(())
}

/// Keys that assertions can be verified with.
pub(crate) fn check_keys(jwks: Option<&str>) -> Result<(), AdminError> {
    let Some(jwks) = jwks else { return Ok(()) };
    if jwks.len() > MAX_CLIENT_KEY_SET_BYTES {
        let why = format!("has more than {MAX_CLIENT_KEY_SET_BYTES} bytes");
        return Err(AdminError::invalid("key set", why));
    }
    JwkSet::parse(jwks)
        .map(|_| ())
        .map_err(|why| AdminError::invalid("key set", format!("cannot be used: {why}")))
}

/// The range of the attribute as policies know it.
pub(crate) fn check_clearance(clearance: i64) -> Result<(), AdminError> {
    if (0..=100).contains(&clearance) {
        return Ok(());
    }
    Err(AdminError::invalid(
        "clearance",
        format!("is {clearance}; it goes from 0 to 100"),
    ))
}

/// A list that is repeated in snapshots or tokens.
pub(crate) fn check_count(
    field: &'static str,
    count: usize,
    limit: usize,
) -> Result<(), AdminError> {
    if count <= limit {
        return Ok(());
    }
    Err(AdminError::invalid(
        field,
        format!("has {count} entries, {limit} are allowed"),
    ))
}

impl Provider {
    /// Groups and roles must exist when they are given. One that is deleted at the same moment is left out of
    /// the directory.
    pub(crate) fn check_memberships(
        &self,
        groups: &[GroupName],
        roles: &[RoleName],
    ) -> Result<(), AdminError> {
        check_count("list of groups", groups.len(), MAX_MEMBERSHIPS)?;
        check_count("list of roles", roles.len(), MAX_MEMBERSHIPS)?;
        for group in groups {
            if self.tenant.get::<Group>(group.as_str())?.is_none() {
                return Err(AdminError::NotFound {
                    kind: "group",
                    name: group.to_string(),
                });
            }
        }
        for role in roles {
            if self.tenant.get::<Role>(role.as_str())?.is_none() {
                return Err(AdminError::NotFound {
                    kind: "role",
                    name: role.to_string(),
                });
            }
        }
        Ok(())
    }
}
