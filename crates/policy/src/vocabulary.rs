//! The Cedar schema as parsed values: entity types and actions.

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema};
use testudo_model::ActionClass;

use crate::problem::PolicyProblem;

/// The Cedar schema all policies are validated against.
pub const SCHEMA: &str = include_str!("fleet.cedarschema");

/// An entity type of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Trait,
    Role,
    Group,
    ServiceGroup,
    User,
    Api,
    Service,
    Route,
    Actor,
    Audience,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Trait,
        Self::Role,
        Self::Group,
        Self::ServiceGroup,
        Self::User,
        Self::Api,
        Self::Service,
        Self::Route,
        Self::Actor,
        Self::Audience,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Trait => "Fleet::Trait",
            Self::Role => "Fleet::Role",
            Self::Group => "Fleet::Group",
            Self::ServiceGroup => "Fleet::ServiceGroup",
            Self::User => "Fleet::User",
            Self::Api => "Fleet::Api",
            Self::Service => "Fleet::Service",
            Self::Route => "Fleet::Route",
            Self::Actor => "Fleet::Actor",
            Self::Audience => "Fleet::Audience",
        }
    }
}

/// An action of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Connect,
    Invoke,
    Read,
    Write,
    Admin,
    Exchange,
}

impl Action {
    pub(crate) const ALL: [Self; 6] = [
        Self::Connect,
        Self::Invoke,
        Self::Read,
        Self::Write,
        Self::Admin,
        Self::Exchange,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Invoke => "invoke",
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Exchange => "exchange",
        }
    }

    /// The one principal type it applies to.
    pub(crate) const fn principal(self) -> Kind {
        match self {
            Self::Connect | Self::Invoke => Kind::Service,
            Self::Read | Self::Write | Self::Admin => Kind::User,
            Self::Exchange => Kind::Actor,
        }
    }

    /// The one resource type it applies to.
    pub(crate) const fn resource(self) -> Kind {
        match self {
            Self::Connect => Kind::Service,
            Self::Invoke | Self::Read | Self::Write | Self::Admin => Kind::Route,
            Self::Exchange => Kind::Audience,
        }
    }
}

impl From<ActionClass> for Action {
    fn from(class: ActionClass) -> Self {
        match class {
            ActionClass::Read => Self::Read,
            ActionClass::Write => Self::Write,
            ActionClass::Admin => Self::Admin,
        }
    }
}

/// The parsed schema with its names at hand.
#[derive(Debug, Clone)]
pub(crate) struct Vocabulary {
    pub(crate) schema: Schema,
    types: Vec<(Kind, EntityTypeName)>,
    action_type: EntityTypeName,
}

impl Vocabulary {
    /// Parses the built-in schema. Fails only if this build is broken, which a test rules out.
    pub(crate) fn load() -> Result<Self, PolicyProblem> {
        let broken = |error: String| PolicyProblem::error(None, "policy.broken_build", error);
        let (schema, _warnings) =
            Schema::from_cedarschema_str(SCHEMA).map_err(|error| broken(error.to_string()))?;
        let parse = |name: &str| {
            name.parse::<EntityTypeName>()
                .map_err(|error| broken(error.to_string()))
        };
        let types = Kind::ALL
            .into_iter()
            .map(|kind| Ok((kind, parse(kind.name())?)))
            .collect::<Result<Vec<_>, PolicyProblem>>()?;
        Ok(Self {
            schema,
            types,
            action_type: parse("Fleet::Action")?,
        })
    }

    /// The entity `id` of type `kind`.
    pub(crate) fn uid(&self, kind: Kind, id: &str) -> EntityUid {
        // Every kind is in the list; the action type is there for the compiler and names no entity of ours.
        let name = self
            .types
            .iter()
            .find(|(known, _)| *known == kind)
            .map_or(&self.action_type, |(_, name)| name);
        EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id))
    }

    /// The action as an entity.
    pub(crate) fn action(&self, action: Action) -> EntityUid {
        EntityUid::from_type_name_and_id(self.action_type.clone(), EntityId::new(action.name()))
    }

    /// The kind of an entity type, `None` for actions and types that are not in the schema.
    pub(crate) fn kind(&self, name: &EntityTypeName) -> Option<Kind> {
        self.types
            .iter()
            .find(|(_, known)| known == name)
            .map(|(kind, _)| *kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_schema_declares_every_kind_and_action() {
        let vocabulary = Vocabulary::load().unwrap();
        for kind in Kind::ALL {
            let uid = vocabulary.uid(kind, "x");
            assert_eq!(vocabulary.kind(uid.type_name()), Some(kind));
            assert!(
                vocabulary
                    .schema
                    .entity_types()
                    .any(|known| known == uid.type_name()),
                "{uid}"
            );
        }
        for action in Action::ALL {
            let uid = vocabulary.action(action);
            assert!(
                vocabulary.schema.actions().any(|known| *known == uid),
                "{uid}"
            );
            let names = |mut types: Box<dyn Iterator<Item = String> + '_>| types.next();
            assert_eq!(
                names(Box::new(
                    vocabulary
                        .schema
                        .principals_for_action(&uid)
                        .unwrap()
                        .map(ToString::to_string)
                )),
                Some(action.principal().name().to_owned())
            );
            assert_eq!(
                names(Box::new(
                    vocabulary
                        .schema
                        .resources_for_action(&uid)
                        .unwrap()
                        .map(ToString::to_string)
                )),
                Some(action.resource().name().to_owned())
            );
        }
        assert_eq!(vocabulary.schema.actions().count(), Action::ALL.len());
    }
}
