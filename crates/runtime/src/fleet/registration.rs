//! Checks of what OAuth clients may ask for that register themselves.

use super::{
    GrantType, document::Cursor, file::FleetFile, file::RegistrationSection, host::HostName,
    problem::Problems,
};

/// What an administrator's token is given for. An application that nobody looked at must never ask for it.
const ADMIN_SCOPE: &str = "testudo:admin";

pub(super) fn check(
    file: &FleetFile,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) -> Option<RegistrationSection> {
    let section = file.registration.clone()?;
    if section.grant_types.contains(&GrantType::ClientCredentials) {
        problems
            .error(
                "fleet.grant_types",
                at.key("grant_types").place(),
                "`client_credentials` is for service accounts",
            )
            .help("declare a service account, or remove `client_credentials`");
    }
    for (index, scope) in section.scopes.iter().enumerate() {
        if scope.as_str() == ADMIN_SCOPE {
            problems
                .error(
                    "fleet.registration",
                    at.key("scopes").index(index).place(),
                    "clients that register themselves cannot administer",
                )
                .why("whoever logs into one as an administrator would make it one")
                .help(format!("remove `{ADMIN_SCOPE}`"));
        }
    }
    for (key, is_empty) in [
        ("grant_types", section.grant_types.is_empty()),
        ("auth_methods", section.auth_methods.is_empty()),
    ] {
        if is_empty {
            problems
                .error(
                    "fleet.registration",
                    at.key(key).place(),
                    "with an empty list no client can be registered",
                )
                .help(format!("remove `{key}`, or the section `[registration]`"));
        }
    }
    for (index, host) in section.redirect_hosts.iter().enumerate() {
        let name = host.strip_prefix("*.").unwrap_or(host);
        if let Err(why) = name.parse::<HostName>() {
            problems
                .error(
                    "fleet.registration",
                    at.key("redirect_hosts").index(index).place(),
                    "this is not a host, nor all hosts below one",
                )
                .why(why.to_string())
                .help("write `wiki.example`, or `*.apps.example`");
        }
    }
    Some(section)
}
