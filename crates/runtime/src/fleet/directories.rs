//! LDAP directories whose people may log in.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use testudo_model::{GroupName, Redacted};

use super::{
    SeedCredential,
    check::Context,
    document::Cursor,
    file::FleetFile,
    identity_providers::{check_map, check_name},
    ldap_filter::LdapFilter,
    secret::SecretReference,
    units::Period,
};

const CODE: &str = "fleet.directory";
/// Connections to one directory at once.
const CONNECTIONS: std::ops::RangeInclusive<u16> = 1..=64;
/// Entries of one page (RFC 2696).
const PAGE: std::ops::RangeInclusive<u16> = 1..=10_000;
/// Time for one login.
const TIMEOUT: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);
/// Time between two looks at who is still there.
const REFRESH: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// An LDAP directory whose people may log in with their password there. They get an account at their first login; its password is
/// never stored here. A name that somebody else has here is theirs alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectorySection {
    /// Where it is: `ldaps://host[:port]`, or `ldap://host[:port]`, which is made safe by StartTLS before anything is said.
    pub url: String,
    /// With `ldap://` to this machine alone: without TLS.
    #[serde(default)]
    pub plain: bool,
    /// PEM file with the certificate authorities to trust, relative to the fleet file. If absent, those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// Who searches.
    pub bind_dn: String,
    /// Their password, by reference.
    pub bind_password: SecretReference,
    /// Below which people are searched.
    pub base: String,
    /// Which of them somebody is who types `{username}`: of one only it may hold. What is typed is always a value, whatever
    /// characters it has.
    #[serde(default = "user_filter")]
    pub user_filter: String,
    /// The attribute that names a person for ever.
    #[serde(default = "id_attribute")]
    pub id_attribute: String,
    /// The attribute with the login name that they get here.
    #[serde(default = "username_attribute")]
    pub username_attribute: String,
    /// The attribute with the name for people.
    #[serde(default = "name_attribute")]
    pub name_attribute: String,
    /// The attribute with the mail address.
    #[serde(default = "email_attribute")]
    pub email_attribute: String,
    /// Whether the mail address is taken over.
    #[serde(default)]
    pub trust_email: bool,
    /// What its groups are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<DirectoryGroupsSection>,
    /// Time for one login there.
    #[serde(default = "timeout")]
    pub timeout: Period,
    /// How often it is looked who is still there, and in which groups.
    #[serde(default = "refresh")]
    pub refresh: Period,
    /// Connections at once.
    #[serde(default = "max_connections")]
    #[schemars(range(min = 1, max = 64))]
    pub max_connections: u16,
    /// Entries that are asked for at once (RFC 2696).
    #[serde(default = "page_size")]
    #[schemars(range(min = 1, max = 10000))]
    pub page_size: u16,
}

/// The groups of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectoryGroupsSection {
    /// Below which they are searched.
    pub base: String,
    /// Which of them somebody is in, by `{dn}` or `{username}`.
    #[serde(default = "group_filter")]
    pub filter: String,
    /// The attribute with a group's name.
    #[serde(default = "group_name_attribute")]
    pub name_attribute: String,
    /// The groups here, by the name of each there. Users come into the groups that are named here, and out of them; other groups
    /// stay as they are.
    pub map: BTreeMap<String, Vec<GroupName>>,
}

/// A directory as declared.
#[derive(Debug, Clone)]
pub struct Directory {
    /// The fleet's name for it.
    pub name: String,
    /// What it says about itself.
    pub section: DirectorySection,
    /// Host and port.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How it is made safe.
    pub security: DirectorySecurity,
    /// The certificate authorities to trust; if none, the system's.
    pub ca_pem: Option<String>,
    /// The password of who searches.
    pub bind_password: Redacted<String>,
    /// Which entry somebody is.
    pub user_filter: LdapFilter,
    /// Which groups they are in.
    pub group_filter: Option<LdapFilter>,
}

/// How a connection to a directory is made safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectorySecurity {
    /// TLS from the first byte.
    Tls,
    /// StartTLS (RFC 4511 section 4.14).
    StartTls,
    /// Not at all, on this machine.
    Plain,
}

fn user_filter() -> String {
    "(uid={username})".to_owned()
}

fn group_filter() -> String {
    "(member={dn})".to_owned()
}

fn id_attribute() -> String {
    "entryUUID".to_owned()
}

fn username_attribute() -> String {
    "uid".to_owned()
}

fn name_attribute() -> String {
    "cn".to_owned()
}

fn group_name_attribute() -> String {
    "cn".to_owned()
}

fn email_attribute() -> String {
    "mail".to_owned()
}

fn timeout() -> Period {
    Period::seconds(5)
}

fn refresh() -> Period {
    Period::seconds(15 * 60)
}

const fn max_connections() -> u16 {
    4
}

const fn page_size() -> u16 {
    500
}

pub(super) fn check(
    file: &FleetFile,
    tree: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Vec<Directory> {
    let at = tree.key("directories");
    let all = file.directories.iter().filter_map(|(name, section)| {
        let at = at.key(name);
        check_name(CODE, name, at, context.problems);
        check_ranges(section, at, context);
        check_attributes(section, at, context);
        directory(name, section, at, context)
    });
    all.collect()
}

fn directory(
    name: &str,
    section: &DirectorySection,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Option<Directory> {
    let user_filter = filter(
        &section.user_filter,
        &["username"],
        at.key("user_filter"),
        context,
    );
    let group_filter = section.groups.as_ref().map(|groups| {
        let at = at.key("groups");
        check_map(&groups.map, at.key("map"), context);
        filter(
            &groups.filter,
            &["dn", "username"],
            at.key("filter"),
            context,
        )
    });
    let group_filter = match group_filter {
        Some(filter) => Some(filter?),
        None => None,
    };
    let (host, port, security) = place(section, at.key("url"), context)?;
    Some(Directory {
        name: name.to_owned(),
        section: section.clone(),
        host,
        port,
        security,
        ca_pem: context.certificates(section.ca_file.as_deref(), at.key("ca_file")),
        bind_password: password(section, at.key("bind_password"), context)?,
        user_filter: user_filter?,
        group_filter,
    })
}

/// A filter that has a place for one of `variables`, and for no other.
fn filter(
    text: &str,
    variables: &[&str],
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Option<LdapFilter> {
    let problem = match text.parse::<LdapFilter>() {
        Ok(filter) if variables.iter().any(|variable| filter.has(variable)) => {
            if variables.contains(&"dn") || !filter.has("dn") {
                return Some(filter);
            }
            "there is no `{dn}` before somebody is found".to_owned()
        }
        Ok(_) => "it is the same for everybody: it has no place for who logs in".to_owned(),
        Err(why) => why.to_string(),
    };
    context
        .problems
        .error(CODE, at.place(), "this filter cannot be used")
        .why(problem)
        .help("write it as RFC 4515 says, such as `(&(objectClass=person)(uid={username}))`");
    None
}

fn place(
    section: &DirectorySection,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Option<(String, u16, DirectorySecurity)> {
    let is_this_machine = |host: &str| matches!(host, "127.0.0.1" | "::1" | "localhost");
    let found = section.url.split_once("://").and_then(|(scheme, rest)| {
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => rest.split_at_checked(rest.find(':').unwrap_or(rest.len()))?,
        };
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port != 0)?),
            None if port.is_empty() => None,
            None => return None,
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) {
            return None;
        }
        match (scheme, section.plain) {
            ("ldaps", false) => Some((host, port.unwrap_or(636), DirectorySecurity::Tls)),
            ("ldap", false) => Some((host, port.unwrap_or(389), DirectorySecurity::StartTls)),
            ("ldap", true) if is_this_machine(host) => {
                Some((host, port.unwrap_or(389), DirectorySecurity::Plain))
            }
            _ => None,
        }
    });
    if found.is_none() {
        context
            .problems
            .error(CODE, at.place(), "a directory is not asked at this address")
            .why("passwords are sent there: `plain` is for this machine alone")
            .help("write `ldaps://ldap.example`, or `ldap://ldap.example` for StartTLS");
    }
    found.map(|(host, port, security)| (host.to_owned(), port, security))
}

fn password(
    section: &DirectorySection,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Option<Redacted<String>> {
    match context.credential(Some(&section.bind_password), at) {
        SeedCredential::Secret(secret) => Some(secret),
        SeedCredential::Generated => Some(Redacted::new(String::new())),
        SeedCredential::Hash(_) => {
            context
                .problems
                .error(CODE, at.place(), "a hash proves nothing elsewhere")
                .help("give the password by `file` or `env`");
            None
        }
    }
}

fn check_ranges(section: &DirectorySection, at: Cursor<'_>, context: &mut Context<'_, '_>) {
    let period = |period: Period| Duration::from_millis(period.millis());
    for (key, is_in) in [
        ("timeout", TIMEOUT.contains(&period(section.timeout))),
        ("refresh", REFRESH.contains(&period(section.refresh))),
        (
            "max_connections",
            CONNECTIONS.contains(&section.max_connections),
        ),
        ("page_size", PAGE.contains(&section.page_size)),
    ] {
        if !is_in {
            let message = format!("this is no useful `{key}`");
            let place = at.key(key).place();
            context.problems.error("fleet.out_of_range", place, message);
        }
    }
}

fn check_attributes(section: &DirectorySection, at: Cursor<'_>, context: &mut Context<'_, '_>) {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.;".contains(&byte);
    for (key, attribute) in [
        ("id_attribute", &section.id_attribute),
        ("username_attribute", &section.username_attribute),
        ("name_attribute", &section.name_attribute),
        ("email_attribute", &section.email_attribute),
    ] {
        if attribute.is_empty() || !attribute.bytes().all(is_name) {
            let place = at.key(key).place();
            context
                .problems
                .error(CODE, place, "this is not the name of an attribute");
        }
    }
    if section.bind_dn.trim().is_empty() {
        context
            .problems
            .error(CODE, at.key("bind_dn").place(), "nobody is named")
            .why("a bind without a name is one of nobody, which servers let pass");
    }
}
