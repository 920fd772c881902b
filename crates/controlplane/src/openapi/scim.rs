//! SCIM 2.0. What its resources are made of is told by `/Schemas`.

use http::Method;
use serde_json::Value;

use super::{
    Entry, SCIM,
    shape::{any, count, list, named, one_of, open, text},
};

const GET: Method = Method::GET;
const POST: Method = Method::POST;

fn entry(method: Method, path: &'static str, summary: &'static str) -> Entry {
    Entry::new(method, path, summary).always_refuses(SCIM, named("ScimError"))
}

fn searched(entry: Entry) -> Entry {
    shown(entry)
        .query("filter", text(), "RFC 7644 section 3.4.2.2")
        .query("sortBy", text(), "an attribute")
        .query("sortOrder", one_of(&["ascending", "descending"]), "how")
        .query("startIndex", count(), "from 1")
        .query("count", count(), "200 at most")
        .gives(200, SCIM, named("ScimList"))
}

fn shown(entry: Entry) -> Entry {
    entry
        .query("attributes", text(), "only these, with commas between")
        .query("excludedAttributes", text(), "all but these")
}

pub(super) fn entries() -> Vec<Entry> {
    let told = |path, summary| {
        entry(GET, path, summary).gives(200, SCIM, open([("schemas", list(text()))]))
    };
    let found = |path, summary| {
        entry(POST, path, summary)
            .takes(SCIM, named("ScimSearch"))
            .gives(200, SCIM, named("ScimList"))
    };
    let mut entries = vec![
        told("/scim/v2/ServiceProviderConfig", "What can be done"),
        told("/scim/v2/ResourceTypes", "Types of resources"),
        told("/scim/v2/ResourceTypes/{type}", "A type of resources"),
        told("/scim/v2/Schemas", "What resources are made of"),
        told(
            "/scim/v2/Schemas/{schema}",
            "What one type of resources is made of",
        ),
        found("/scim/v2/.search", "Find users and groups"),
        found("/scim/v2/Users/.search", "Find users"),
        found("/scim/v2/Groups/.search", "Find groups"),
        entry(POST, "/scim/v2/Bulk", "Many requests in one")
            .takes(
                SCIM,
                open([("schemas", list(text())), ("Operations", list(any()))]),
            )
            .gives(
                200,
                SCIM,
                open([("schemas", list(text())), ("Operations", list(any()))]),
            ),
    ];
    entries.extend(resources("/scim/v2/Users", "/scim/v2/Users/{resource}"));
    entries.extend(resources("/scim/v2/Groups", "/scim/v2/Groups/{resource}"));
    entries
}

fn resources(all: &'static str, one: &'static str) -> [Entry; 6] {
    let resource = || named("ScimResource");
    [
        searched(entry(GET, all, "Find")),
        shown(entry(POST, all, "Make one"))
            .takes(SCIM, named("ScimDraft"))
            .gives(201, SCIM, resource()),
        shown(entry(GET, one, "Read one")).gives(200, SCIM, resource()),
        shown(entry(Method::PUT, one, "Say all about one anew"))
            .takes(SCIM, named("ScimDraft"))
            .gives(200, SCIM, resource()),
        shown(entry(Method::PATCH, one, "Change parts of one"))
            .takes(
                SCIM,
                open([("schemas", list(text())), ("Operations", list(any()))]),
            )
            .gives(200, SCIM, resource())
            .gives_nothing(204),
        entry(Method::DELETE, one, "Delete one").gives_nothing(204),
    ]
}

pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let schemas = || ("schemas", list(text()));
    vec![
        (
            "ScimError",
            open([schemas(), ("status", text()), ("detail", text())]),
        ),
        ("ScimResource", open([schemas(), ("id", text())])),
        ("ScimDraft", open([schemas()])),
        ("ScimSearch", open([schemas()])),
        (
            "ScimList",
            open([
                schemas(),
                ("totalResults", count()),
                ("startIndex", count()),
                ("itemsPerPage", count()),
                ("Resources", list(named("ScimResource"))),
            ]),
        ),
    ]
}
