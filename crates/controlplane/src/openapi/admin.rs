//! The admin API.

use http::Method;
use serde_json::Value;

use super::{
    Entry, JSON, page,
    shape::{any, count, flag, list, maybe, named, object, one_of, open, some_of, text},
};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

pub(super) fn entry(
    method: Method,
    path: &'static str,
    summary: &'static str,
    answer: Value,
) -> Entry {
    Entry::new(method, path, summary).gives(200, JSON, answer)
}

/// One of a list in pages.
pub(super) fn listed(path: &'static str, summary: &'static str, of: &str) -> Entry {
    entry(Method::GET, path, summary, page(named(of)))
        .query("limit", count(), "rows at most")
        .query("after", text(), "`next` of the page before")
        .query("filter", text(), "what one of the names must have in it")
}

pub(super) fn decided(entry: Entry) -> Entry {
    entry.query("version", count(), "the version it was decided on")
}

pub(super) fn entries() -> Vec<Entry> {
    let all = [fleet(), people(), groups(), ledger()];
    all.into_iter().flatten().collect()
}

fn fleet() -> Vec<Entry> {
    let identity = || object([("spiffe_id", text())]);
    vec![
        entry(GET, "/api/v1/status", "How the fleet is", named("Status")),
        entry(
            POST,
            "/api/v1/fleet/apply",
            "Put a fleet file in force",
            open([("changed", flag())]),
        )
        .query(
            "dry_run",
            flag(),
            "say what would change, and change nothing",
        )
        .query(
            "allow_lockout",
            flag(),
            "also if nobody could apply another over the network then",
        )
        .takes(JSON, named("Bundle")),
        entry(
            GET,
            "/api/v1/proxies",
            "Proxies and what they enforce",
            items(named("Proxy")),
        ),
        entry(
            POST,
            "/api/v1/join-tokens",
            "A token for one proxy to join with",
            object([("token", text()), ("id", text())]),
        )
        .takes(
            JSON,
            some_of(
                [("ttl_seconds", count())],
                [("service", text()), ("gateway", flag())],
            ),
        ),
        entry(
            GET,
            "/api/v1/join-tokens",
            "Join tokens",
            items(named("JoinToken")),
        ),
        entry(
            DELETE,
            "/api/v1/join-tokens/{token}",
            "Take a join token back",
            named("JoinToken"),
        ),
        entry(
            POST,
            "/api/v1/identities/revoke",
            "Revoke a workload",
            object([("revoked", text())]),
        )
        .takes(JSON, identity()),
        entry(
            POST,
            "/api/v1/identities/reinstate",
            "Give a revoked workload its identity back",
            object([("reinstated", text())]),
        )
        .takes(JSON, identity()),
        entry(
            POST,
            "/api/v1/keys/rotate",
            "A new key for the store",
            object([
                ("term", count()),
                ("resealed", count()),
                ("message", text()),
            ]),
        ),
        entry(
            POST,
            "/api/v1/ca/rotate",
            "A new root for workloads",
            object([("version", count()), ("message", text())]),
        ),
    ]
}

fn people() -> Vec<Entry> {
    let user = || named("User");
    vec![
        listed("/api/v1/users", "Users", "UserRow"),
        entry(POST, "/api/v1/users", "Make a user", user()).takes(JSON, named("NewUser")),
        entry(GET, "/api/v1/users/{username}", "A user", user()),
        decided(entry(
            PUT,
            "/api/v1/users/{username}",
            "Say all about a user anew",
            user(),
        ))
        .takes(JSON, named("UserProfile")),
        entry(
            DELETE,
            "/api/v1/users/{username}",
            "Delete a user",
            object([("deleted", text())]),
        ),
        entry(
            POST,
            "/api/v1/users/{username}/disable",
            "Disable a user",
            user(),
        ),
        entry(
            POST,
            "/api/v1/users/{username}/enable",
            "Enable a user",
            user(),
        ),
        entry(
            POST,
            "/api/v1/users/{username}/reset-second-factor",
            "Remove a lost second factor",
            user(),
        ),
        entry(
            POST,
            "/api/v1/users/{username}/verify-email",
            "Say that the mail address of a user is theirs",
            user(),
        ),
        entry(
            PUT,
            "/api/v1/users/{username}/password",
            "Set a password",
            user(),
        )
        .takes(JSON, object([("password", text())])),
        entry(
            GET,
            "/api/v1/users/{username}/passkeys",
            "Passkeys of a user",
            items(named("Passkey")),
        ),
        entry(
            DELETE,
            "/api/v1/users/{username}/passkeys/{passkey}",
            "Remove a lost passkey",
            object([("removed", text())]),
        ),
        entry(
            POST,
            "/api/v1/users/{username}/invitation",
            "A link to add a passkey with",
            object([("link", text()), ("expires", text())]),
        )
        .takes(JSON, object([("ttl_seconds", count())])),
        entry(
            GET,
            "/api/v1/users/{username}/links",
            "Accounts elsewhere that log a user in",
            items(named("Link")),
        ),
        entry(
            POST,
            "/api/v1/users/{username}/links",
            "Connect one",
            object([("link", text())]),
        )
        .takes(
            JSON,
            object([("identity_provider", text()), ("subject", text())]),
        ),
        entry(
            DELETE,
            "/api/v1/users/{username}/links/{link}",
            "Part with one",
            object([("removed", text())]),
        ),
        entry(
            GET,
            "/api/v1/identity-providers",
            "Where people may log in elsewhere",
            items(named("IdentityProvider")),
        ),
        entry(
            GET,
            "/api/v1/users/{username}/sessions",
            "Sessions of a user",
            items(named("Session")),
        ),
        entry(
            DELETE,
            "/api/v1/sessions/{session}",
            "End a session",
            object([("revoked", text())]),
        ),
        listed(
            "/api/v1/registration-tokens",
            "Tokens to register applications with",
            "RegistrationToken",
        ),
        entry(
            POST,
            "/api/v1/registration-tokens",
            "A token to register applications with",
            named("NewRegistrationToken"),
        )
        .takes(
            JSON,
            some_of(
                [("ttl_seconds", count())],
                [("label", maybe(text())), ("uses", count())],
            ),
        ),
        entry(
            DELETE,
            "/api/v1/registration-tokens/{registration_token}",
            "Take such a token back",
            named("RegistrationToken"),
        ),
    ]
}

fn groups() -> Vec<Entry> {
    let member = "/api/v1/groups/{group}/members/{kind}/{member}";
    vec![
        entry(
            POST,
            "/api/v1/import",
            "A part of what another identity provider knew",
            object([
                ("dry_run", flag()),
                ("created", list(text())),
                ("present", list(text())),
                (
                    "generated",
                    list(object([("client", text()), ("secret", text())])),
                ),
            ]),
        )
        .takes(
            JSON,
            some_of(
                [],
                [
                    ("dry_run", flag()),
                    ("roles", list(text())),
                    ("groups", any()),
                    ("users", list(any())),
                    ("clients", list(any())),
                ],
            ),
        ),
        listed("/api/v1/groups", "Groups", "Group"),
        entry(POST, "/api/v1/groups", "Make a group", named("Group"))
            .takes(JSON, named("NewGroup")),
        entry(GET, "/api/v1/groups/{group}", "A group", named("Group")),
        decided(entry(
            PUT,
            "/api/v1/groups/{group}",
            "Say all about a group anew",
            named("Group"),
        ))
        .takes(JSON, named("GroupProfile")),
        decided(entry(
            DELETE,
            "/api/v1/groups/{group}",
            "Delete a group",
            object([("deleted", text())]),
        ))
        .query("dissolve", flag(), "also if somebody is in it"),
        listed(
            "/api/v1/groups/{group}/members",
            "Who is in a group",
            "Member",
        )
        .query("nested", flag(), "also through groups in it")
        .query(
            "kind",
            one_of(&["user", "service-account", "group"]),
            "only these",
        ),
        entry(
            PUT,
            member,
            "Put somebody into a group",
            named("Membership"),
        ),
        entry(
            DELETE,
            member,
            "Take somebody out of a group",
            named("Membership"),
        ),
        listed("/api/v1/tenants", "Tenants", "Tenant"),
        entry(POST, "/api/v1/tenants", "Make a tenant", named("Tenant")).takes(
            JSON,
            some_of([("name", text())], [("display_name", maybe(text()))]),
        ),
        entry(
            PUT,
            "/api/v1/tenants/{tenant}",
            "Call a tenant otherwise",
            named("Tenant"),
        )
        .takes(JSON, object([("display_name", text())])),
        entry(
            POST,
            "/api/v1/tenants/{tenant}/disable",
            "Let nobody log in to a tenant",
            named("Tenant"),
        ),
        entry(
            POST,
            "/api/v1/tenants/{tenant}/enable",
            "Serve a tenant again",
            named("Tenant"),
        ),
        listed("/api/v1/roles", "Roles", "Role"),
        entry(POST, "/api/v1/roles", "Make a role", named("Role")).takes(
            JSON,
            some_of([("name", text())], [("description", maybe(text()))]),
        ),
        entry(
            DELETE,
            "/api/v1/roles/{role}",
            "Delete a role",
            object([("deleted", text())]),
        ),
    ]
}

fn ledger() -> Vec<Entry> {
    vec![
        entry(
            GET,
            "/api/v1/tokens/{token}",
            "Why an access token exists",
            open([
                ("token", text()),
                ("standing", text()),
                ("steps", list(any())),
            ]),
        ),
        entry(
            GET,
            "/api/v1/decisions/{decision}",
            "A decision, explained",
            object([("text", maybe(text())), ("entry", named("LedgerEntry"))]),
        ),
        entry(
            GET,
            "/api/v1/audit/events",
            "Events, newest first",
            object([
                ("items", list(named("LedgerEntry"))),
                ("size", count()),
                ("next", maybe(count())),
                ("truncated", flag()),
            ]),
        )
        .query("filter", text(), "terms that must all hold")
        .query("limit", count(), "events at most")
        .query("before", count(), "`next` of the page before"),
        entry(
            GET,
            "/api/v1/audit/events/{event}",
            "An event",
            named("LedgerEntry"),
        ),
        entry(
            GET,
            "/api/v1/audit/events/{event}/proof",
            "The proof of an event",
            object([("index", count()), ("proof", text())]),
        ),
        entry(
            GET,
            "/api/v1/audit/tail",
            "Events as they come",
            object([("items", list(named("LedgerEntry"))), ("next", count())]),
        )
        .must("from", count(), "the first leaf")
        .query("filter", text(), "terms that must all hold")
        .query(
            "wait_seconds",
            count(),
            "how long to wait for one, 30 at most",
        ),
        entry(
            POST,
            "/api/v1/audit/export",
            "Write the ledger to files",
            object([("size", count())]),
        )
        .takes(JSON, object([("directory", text())])),
        entry(
            GET,
            "/api/v1/audit/checkpoint",
            "The newest checkpoint",
            object([("checkpoint", text())]),
        ),
        entry(
            GET,
            "/api/v1/audit/key",
            "The ledger's verifier key",
            object([("key", text())]),
        ),
        entry(
            POST,
            "/api/v1/audit/verify",
            "Verify the ledger",
            open([("verified", flag())]),
        )
        .takes(JSON, some_of([], [("checkpoint", maybe(text()))])),
    ]
}

fn items(of: Value) -> Value {
    object([("items", list(of))])
}

pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let texts = || list(text());
    let maybe_text = || maybe(text());
    vec![
        (
            "Status",
            open([
                ("trust_domain", text()),
                ("issuer", text()),
                ("snapshot", maybe(count())),
                ("services", maybe(count())),
                ("ledger", object([("size", count())])),
                ("proxies", list(named("Proxy"))),
            ]),
        ),
        ("Bundle", open([("name", text()), ("text", text())])),
        (
            "Proxy",
            open([
                ("instance", text()),
                ("spiffe_id", text()),
                ("live", flag()),
                ("revocations_behind", maybe(count())),
            ]),
        ),
        (
            "JoinToken",
            object([
                ("id", text()),
                ("spiffe_id", text()),
                ("state", one_of(&["used", "expired", "waiting"])),
                ("created", text()),
                ("expires", text()),
                ("used", maybe_text()),
            ]),
        ),
        ("UserRow", object(user_fields())),
        ("User", {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = user_fields();
            let all = [("all_groups", texts()), ("all_roles", texts())];
            let [m, n] = all;
            object([a, b, c, d, e, f, g, h, i, j, k, l, m, n])
        }),
        ("UserProfile", some_of([], user_profile())),
        ("NewUser", {
            let [a, b, c, d, e, f] = user_profile();
            some_of(
                [("username", text())],
                [a, b, c, d, e, f, ("password", maybe_text())],
            )
        }),
        (
            "Passkey",
            object([
                ("id", text()),
                ("name", text()),
                ("aaguid", any()),
                ("attested", flag()),
                ("synchronised", flag()),
                ("created", text()),
                ("last_used", maybe_text()),
            ]),
        ),
        (
            "Link",
            object([
                ("id", text()),
                ("identity_provider", text()),
                ("issuer", text()),
                ("subject", text()),
                ("account", maybe_text()),
                ("created", text()),
                ("last_login", maybe_text()),
            ]),
        ),
        (
            "IdentityProvider",
            object([
                ("name", text()),
                ("label", text()),
                ("issuer", text()),
                ("client_id", text()),
                ("redirect_uri", text()),
                ("authentication", text()),
                ("scopes", texts()),
                ("new_users", one_of(&["link", "create"])),
                ("trust_email", flag()),
                ("username_claim", text()),
                ("groups", any()),
                ("assurance", list(any())),
            ]),
        ),
        (
            "Session",
            object([
                ("id", text()),
                ("client", texts()),
                ("created", text()),
                ("expires", maybe_text()),
                ("source_ip", maybe_text()),
            ]),
        ),
        (
            "Group",
            object([
                ("id", text()),
                ("name", text()),
                ("display_name", maybe_text()),
                ("description", maybe_text()),
                ("external_id", maybe_text()),
                ("parents", texts()),
                ("roles", texts()),
                ("version", count()),
                ("created", text()),
                ("updated", text()),
            ]),
        ),
        ("GroupProfile", some_of([], group_profile())),
        ("NewGroup", some_of([("name", text())], group_profile())),
        (
            "Member",
            object([
                ("kind", one_of(&["user", "service-account", "group"])),
                ("name", text()),
                ("id", text()),
                ("via", text()),
            ]),
        ),
        (
            "Membership",
            object([
                ("group", text()),
                ("kind", text()),
                ("member", text()),
                ("is_in", flag()),
                ("changed", flag()),
            ]),
        ),
        (
            "Tenant",
            object([
                ("name", text()),
                ("display_name", text()),
                ("issuer", text()),
                ("disabled", flag()),
                ("created", text()),
                ("updated", text()),
            ]),
        ),
        (
            "Role",
            object([
                ("name", text()),
                ("description", maybe_text()),
                ("version", count()),
                ("created", text()),
                ("updated", text()),
            ]),
        ),
        ("RegistrationToken", object(registration_token())),
        ("NewRegistrationToken", {
            let [a, b, c, d, e] = registration_token();
            object([a, b, c, d, e, ("token", text())])
        }),
        (
            "LedgerEntry",
            object([("index", count()), ("time", text()), ("event", any())]),
        ),
    ]
}

fn registration_token() -> [(&'static str, Value); 5] {
    [
        ("id", text()),
        ("label", maybe(text())),
        ("uses_left", count()),
        ("created", text()),
        ("expires", text()),
    ]
}

fn user_fields() -> [(&'static str, Value); 12] {
    [
        ("id", text()),
        ("username", text()),
        ("display_name", maybe(text())),
        ("email", maybe(text())),
        ("email_verified", flag()),
        ("disabled", flag()),
        ("clearance", count()),
        ("groups", list(text())),
        ("roles", list(text())),
        ("version", count()),
        ("created", text()),
        ("updated", text()),
    ]
}

fn user_profile() -> [(&'static str, Value); 6] {
    [
        ("display_name", maybe(text())),
        ("email", maybe(text())),
        ("email_verified", maybe(flag())),
        ("clearance", count()),
        ("groups", list(text())),
        ("roles", list(text())),
    ]
}

fn group_profile() -> [(&'static str, Value); 4] {
    [
        ("display_name", maybe(text())),
        ("description", maybe(text())),
        ("parents", list(text())),
        ("roles", list(text())),
    ]
}
