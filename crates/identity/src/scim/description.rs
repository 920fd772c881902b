//! What discovery's own answers are made of (RFC 7643 section 8.7.2).

use super::schema::{Attribute, Kind, ResourceType, Schema};

/// All schemas there are.
pub(super) fn schemas() -> impl Iterator<Item = Schema> {
    let own = [
        Schema {
            urn: "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig",
            name: "ServiceProviderConfig",
            description: "What can be done",
            attributes: &CONFIGURATION,
        },
        Schema {
            urn: "urn:ietf:params:scim:schemas:core:2.0:ResourceType",
            name: "ResourceType",
            description: "A type of resources",
            attributes: &RESOURCE_TYPE,
        },
        Schema {
            urn: "urn:ietf:params:scim:schemas:core:2.0:Schema",
            name: "Schema",
            description: "What resources are made of",
            attributes: &SCHEMA,
        },
    ];
    ResourceType::ALL
        .into_iter()
        .map(ResourceType::schema)
        .chain(own)
}

const fn text(name: &'static str, description: &'static str) -> Attribute {
    Attribute::new(name, Kind::Text, description).told()
}

const fn flag(name: &'static str, description: &'static str) -> Attribute {
    Attribute::new(name, Kind::Boolean, description).told()
}

const fn number(name: &'static str, description: &'static str) -> Attribute {
    Attribute::new(name, Kind::Integer, description).told()
}

const fn address(name: &'static str, description: &'static str) -> Attribute {
    Attribute::new(name, Kind::Reference(&["external"]), description)
        .exact()
        .told()
}

const fn parts(
    name: &'static str,
    parts: &'static [Attribute],
    description: &'static str,
) -> Attribute {
    Attribute::new(name, Kind::Complex(parts), description).told()
}

static SUPPORTED: [Attribute; 1] = [flag("supported", "Whether it can be done").required()];

static BULK: [Attribute; 3] = [
    flag("supported", "Whether it can be done").required(),
    number("maxOperations", "Operations of one request").required(),
    number("maxPayloadSize", "Bytes of one request").required(),
];

static FILTER: [Attribute; 2] = [
    flag("supported", "Whether it can be done").required(),
    number("maxResults", "Resources of one answer").required(),
];

static SCHEME: [Attribute; 5] = [
    text("type", "Which scheme").required(),
    text("name", "Its name").required(),
    text("description", "What it is").required(),
    address("specUri", "Where it is specified"),
    address("documentationUri", "Where it is explained"),
];

static CONFIGURATION: [Attribute; 8] = [
    address("documentationUri", "Where it is explained"),
    parts("patch", &SUPPORTED, "Changing parts").required(),
    parts("bulk", &BULK, "Many requests in one").required(),
    parts("filter", &FILTER, "Filters").required(),
    parts("changePassword", &SUPPORTED, "Setting passwords").required(),
    parts("sort", &SUPPORTED, "Sorting").required(),
    parts("etag", &SUPPORTED, "Entity tags").required(),
    parts(
        "authenticationSchemes",
        &SCHEME,
        "How clients prove themselves",
    )
    .many()
    .required(),
];

static EXTENSION: [Attribute; 2] = [
    address("schema", "The URN of the extension").required(),
    flag("required", "Whether each resource has it").required(),
];

static RESOURCE_TYPE: [Attribute; 6] = [
    text("id", "Its id"),
    text("name", "Its name").required(),
    text("description", "What it is"),
    address("endpoint", "Where its resources are").required(),
    address("schema", "What its resources are made of").required(),
    parts("schemaExtensions", &EXTENSION, "What they have besides").many(),
];

static SCHEMA: [Attribute; 4] = [
    text("id", "Its URN").required(),
    text("name", "Its name").required(),
    text("description", "What it is"),
    parts("attributes", &ATTRIBUTE, "What resources have")
        .many()
        .required(),
];

static ATTRIBUTE: [Attribute; 12] = [
    text("name", "Its name").required(),
    text("type", "What a value is").required(),
    flag("multiValued", "Whether there may be many").required(),
    text("description", "What it is"),
    flag("required", "Whether there must be one"),
    text("canonicalValues", "Values that are known").many(),
    flag("caseExact", "Whether case matters"),
    text("mutability", "Who writes it"),
    text("returned", "When it is told"),
    text("uniqueness", "Whether two may have one value"),
    text("referenceTypes", "What it refers to").many(),
    parts("subAttributes", &PART, "Its parts").many(),
];

static PART: [Attribute; 11] = [
    text("name", "Its name").required(),
    text("type", "What a value is").required(),
    flag("multiValued", "Whether there may be many").required(),
    text("description", "What it is"),
    flag("required", "Whether there must be one"),
    text("canonicalValues", "Values that are known").many(),
    flag("caseExact", "Whether case matters"),
    text("mutability", "Who writes it"),
    text("returned", "When it is told"),
    text("uniqueness", "Whether two may have one value"),
    text("referenceTypes", "What it refers to").many(),
];
