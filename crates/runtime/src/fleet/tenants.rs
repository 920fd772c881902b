//! Checks of tenants.

use std::collections::BTreeMap;

use testudo_model::{TenantName, TenantPattern};

use super::{Tenant, check::Context, document::Cursor, file::FleetFile};

/// Longest name for people, in bytes.
const MAX_DISPLAY_NAME_BYTES: usize = 200;

/// The tenants of `file`. A service for users of another one is told of: it may have been made by an administrator, or not be
/// written right.
pub(super) fn check(
    file: &FleetFile,
    tree: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> BTreeMap<TenantName, Tenant> {
    let mut tenants = BTreeMap::new();
    for (name, section) in &file.tenants {
        let at = tree.key("tenants").key(name.as_str());
        let display_name = section.name.clone().unwrap_or_else(|| name.to_string());
        if name.is_default() {
            let message = "`default` is the fleet itself";
            let problem = context
                .problems
                .error("fleet.reserved_name", at.key_place(), message);
            problem.help(
                "its users, groups and clients are at the top of this file; choose another name",
            );
        }
        let fits = (1..=MAX_DISPLAY_NAME_BYTES).contains(&display_name.len());
        if !fits || display_name.contains(char::is_control) {
            let message = format!(
                "the name of a tenant has 1 to {MAX_DISPLAY_NAME_BYTES} bytes and no control characters"
            );
            context
                .problems
                .error("fleet.invalid_value", at.key("name").place(), message);
        }
        let tenant = Tenant {
            display_name,
            disabled: section.disabled,
        };
        tenants.insert(name.clone(), tenant);
    }
    for (name, service) in &file.services {
        let at = tree.key("services").key(name.as_str()).key("tenants");
        for (index, pattern) in service.tenants.iter().enumerate() {
            let TenantPattern::One(tenant) = pattern else {
                continue;
            };
            if !tenant.is_default() && !file.tenants.contains_key(tenant) {
                let message = format!("this file declares no tenant `{tenant}`");
                let place = at.index(index).place();
                let problem = context
                    .problems
                    .warn("fleet.unknown_tenant", place, message);
                problem.help(format!(
                    "add `[tenants.{tenant}]`, or make it with `testudo tenant create {tenant}`"
                ));
            }
        }
    }
    tenants
}
