//! The resources and their attributes (RFC 7643): one table from which discovery answers, bodies are read, filters
//! checked and answers cut.

use serde_json::{Value, json};

/// What a value is (RFC 7643 section 2.3).
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    Boolean,
    Integer,
    Moment,
    /// The address of a resource of one of these types.
    Reference(&'static [&'static str]),
    Complex(&'static [Attribute]),
}

/// Who may write an attribute (RFC 7643 section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutability {
    ReadWrite,
    ReadOnly,
    WriteOnly,
    /// Only as a part of a value that is new.
    Immutable,
}

/// When an attribute is in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returned {
    Always,
    Default,
    Request,
    Never,
}

/// An attribute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_many: bool,
    pub(super) is_required: bool,
    pub(super) is_case_exact: bool,
    pub(super) mutability: Mutability,
    pub(super) returned: Returned,
    is_unique: bool,
    canonical: &'static [&'static str],
    description: &'static str,
}

impl Attribute {
    pub(super) const fn new(name: &'static str, kind: Kind, description: &'static str) -> Self {
        Self {
            name,
            kind,
            is_many: false,
            is_required: false,
            is_case_exact: false,
            mutability: Mutability::ReadWrite,
            returned: Returned::Default,
            is_unique: false,
            canonical: &[],
            description,
        }
    }

    pub(super) const fn many(self) -> Self {
        Self {
            is_many: true,
            ..self
        }
    }

    pub(super) const fn required(self) -> Self {
        Self {
            is_required: true,
            ..self
        }
    }

    pub(super) const fn exact(self) -> Self {
        Self {
            is_case_exact: true,
            ..self
        }
    }

    const fn unique(self) -> Self {
        Self {
            is_unique: true,
            ..self
        }
    }

    pub(super) const fn told(self) -> Self {
        self.mutable(Mutability::ReadOnly)
    }

    const fn mutable(self, mutability: Mutability) -> Self {
        Self { mutability, ..self }
    }

    const fn returned(self, returned: Returned) -> Self {
        Self { returned, ..self }
    }

    const fn one_of(self, canonical: &'static [&'static str]) -> Self {
        Self { canonical, ..self }
    }

    /// Its parts, if it is complex.
    pub(super) const fn parts(&self) -> &'static [Self] {
        match self.kind {
            Kind::Complex(parts) => parts,
            _ => &[],
        }
    }

    /// The part with this name, whatever its case.
    pub(super) fn part(&self, name: &str) -> Option<&'static Self> {
        find(self.parts(), name)
    }

    pub(super) fn to_json(self) -> Value {
        let kind = match self.kind {
            Kind::Text => "string",
            Kind::Boolean => "boolean",
            Kind::Integer => "integer",
            Kind::Moment => "dateTime",
            Kind::Reference(_) => "reference",
            Kind::Complex(_) => "complex",
        };
        let mutability = match self.mutability {
            Mutability::ReadWrite => "readWrite",
            Mutability::ReadOnly => "readOnly",
            Mutability::WriteOnly => "writeOnly",
            Mutability::Immutable => "immutable",
        };
        let returned = match self.returned {
            Returned::Always => "always",
            Returned::Default => "default",
            Returned::Request => "request",
            Returned::Never => "never",
        };
        let mut shown = json!({
            "name": self.name,
            "type": kind,
            "multiValued": self.is_many,
            "description": self.description,
            "required": self.is_required,
            "caseExact": self.is_case_exact,
            "mutability": mutability,
            "returned": returned,
            "uniqueness": if self.is_unique { "server" } else { "none" },
        });
        if let Some(shown) = shown.as_object_mut() {
            if !self.canonical.is_empty() {
                shown.insert("canonicalValues".to_owned(), json!(self.canonical));
            }
            if let Kind::Reference(types) = self.kind {
                shown.insert("referenceTypes".to_owned(), json!(types));
            }
            if let Kind::Complex(parts) = self.kind {
                let parts: Vec<Value> = parts.iter().map(|part| part.to_json()).collect();
                shown.insert("subAttributes".to_owned(), Value::Array(parts));
            }
        }
        shown
    }
}

/// The attribute with this name, whatever its case.
pub(super) fn find(attributes: &'static [Attribute], name: &str) -> Option<&'static Attribute> {
    attributes
        .iter()
        .find(|attribute| attribute.name.eq_ignore_ascii_case(name))
}

/// What every resource has (RFC 7643 section 3.1).
static COMMON: [Attribute; 4] = [
    Attribute::new("schemas", Kind::Text, "What the resource is made of")
        .many()
        .told()
        .returned(Returned::Always),
    Attribute::new("id", Kind::Text, "Its id")
        .exact()
        .unique()
        .told()
        .returned(Returned::Always),
    Attribute::new("externalId", Kind::Text, "What the client calls it").exact(),
    Attribute::new("meta", Kind::Complex(&META), "About the resource").told(),
];

static META: [Attribute; 5] = [
    Attribute::new("resourceType", Kind::Text, "Its type")
        .exact()
        .told(),
    Attribute::new("created", Kind::Moment, "When it was made").told(),
    Attribute::new("lastModified", Kind::Moment, "When it was changed last").told(),
    Attribute::new("location", Kind::Reference(&["uri"]), "Where it is")
        .exact()
        .told(),
    Attribute::new("version", Kind::Text, "Its entity tag")
        .exact()
        .told(),
];

static USER: [Attribute; 7] = [
    Attribute::new("userName", Kind::Text, "Login name; kept in lower case")
        .required()
        .unique(),
    Attribute::new("name", Kind::Complex(&NAME), "The name in parts"),
    Attribute::new("displayName", Kind::Text, "Name for people"),
    Attribute::new(
        "emails",
        Kind::Complex(&EMAIL),
        "Mail addresses; the primary or first one counts",
    )
    .many(),
    Attribute::new(
        "active",
        Kind::Boolean,
        "Whether they may log in; never unassigned",
    )
    .required(),
    Attribute::new(
        "password",
        Kind::Text,
        "A new password; it ends all sessions",
    )
    .exact()
    .mutable(Mutability::WriteOnly)
    .returned(Returned::Never),
    Attribute::new(
        "groups",
        Kind::Complex(&MEMBERSHIP),
        "Groups they are in, also through others",
    )
    .many()
    .told(),
];

static NAME: [Attribute; 3] = [
    Attribute::new("formatted", Kind::Text, "All of it, as it is to be shown"),
    Attribute::new("familyName", Kind::Text, "Surname"),
    Attribute::new("givenName", Kind::Text, "First name"),
];

static EMAIL: [Attribute; 3] = [
    Attribute::new("value", Kind::Text, "The address"),
    Attribute::new("type", Kind::Text, "What it is for").one_of(&["work", "home", "other"]),
    Attribute::new("primary", Kind::Boolean, "Whether it is the one to use"),
];

static MEMBERSHIP: [Attribute; 4] = [
    Attribute::new("value", Kind::Text, "Id of the group")
        .exact()
        .told(),
    Attribute::new("$ref", Kind::Reference(&["Group"]), "Where it is")
        .exact()
        .told(),
    Attribute::new("display", Kind::Text, "Its name for people").told(),
    Attribute::new(
        "type",
        Kind::Text,
        "`direct`, or `indirect` through another group",
    )
    .one_of(&["direct", "indirect"])
    .told(),
];

static GROUP: [Attribute; 2] = [
    Attribute::new(
        "displayName",
        Kind::Text,
        "Name for people; the first one gives the name in policies",
    )
    .required(),
    Attribute::new("members", Kind::Complex(&MEMBER), "Users and groups in it").many(),
];

static MEMBER: [Attribute; 4] = [
    Attribute::new("value", Kind::Text, "Id of the user or group")
        .exact()
        .mutable(Mutability::Immutable),
    Attribute::new(
        "$ref",
        Kind::Reference(&["User", "Group"]),
        "Where they are",
    )
    .exact()
    .mutable(Mutability::Immutable),
    Attribute::new("type", Kind::Text, "`User` or `Group`")
        .one_of(&["User", "Group"])
        .mutable(Mutability::Immutable),
    Attribute::new("display", Kind::Text, "Their name")
        .told()
        .returned(Returned::Request),
];

/// A type of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResourceType {
    User,
    Group,
}

impl ResourceType {
    pub(super) const ALL: [Self; 2] = [Self::User, Self::Group];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
        }
    }

    /// Where its resources are.
    pub(super) const fn endpoint(self) -> &'static str {
        match self {
            Self::User => "Users",
            Self::Group => "Groups",
        }
    }

    pub(super) const fn urn(self) -> &'static str {
        match self {
            Self::User => "urn:ietf:params:scim:schemas:core:2.0:User",
            Self::Group => "urn:ietf:params:scim:schemas:core:2.0:Group",
        }
    }

    const fn own(self) -> &'static [Attribute] {
        match self {
            Self::User => &USER,
            Self::Group => &GROUP,
        }
    }

    /// All its attributes.
    pub(super) fn attributes(self) -> impl Iterator<Item = &'static Attribute> {
        COMMON.iter().chain(self.own())
    }

    /// The attribute with this name, whatever its case.
    pub(super) fn attribute(self, name: &str) -> Option<&'static Attribute> {
        find(&COMMON, name).or_else(|| find(self.own(), name))
    }

    /// The type whose resources are at this endpoint.
    pub(super) fn at(endpoint: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.endpoint() == endpoint)
    }

    /// As `/ResourceTypes` shows it (RFC 7643 section 6).
    pub(super) fn to_json(self, base: &str) -> Value {
        json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ResourceType"],
            "id": self.name(),
            "name": self.name(),
            "endpoint": format!("/{}", self.endpoint()),
            "schema": self.urn(),
            "schemaExtensions": [],
            "meta": {
                "resourceType": "ResourceType",
                "location": format!("{base}/ResourceTypes/{}", self.name()),
            },
        })
    }

    /// What its resources are made of.
    pub(super) const fn schema(self) -> Schema {
        Schema {
            urn: self.urn(),
            name: self.name(),
            description: match self {
                Self::User => "A person",
                Self::Group => "A group of people and groups",
            },
            attributes: self.own(),
        }
    }
}

/// What resources are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schema {
    pub(super) urn: &'static str,
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) attributes: &'static [Attribute],
}

impl Schema {
    /// As `/Schemas` shows it (RFC 7643 section 7).
    pub(super) fn to_json(self, base: &str) -> Value {
        let attributes: Vec<Value> = self.attributes.iter().map(|own| own.to_json()).collect();
        json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Schema"],
            "id": self.urn,
            "name": self.name,
            "description": self.description,
            "attributes": attributes,
            "meta": {
                "resourceType": "Schema",
                "location": format!("{base}/Schemas/{}", self.urn),
            },
        })
    }
}
