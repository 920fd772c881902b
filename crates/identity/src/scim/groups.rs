//! Groups as resources.
//!
//! A group has a name in policies, which it keeps, and one for people, which is its `displayName`. Service accounts are no
//! resources: they are not shown among the members, and stay members whatever is said here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use testudo_model::{GroupId, GroupName, InvalidName, Ulid, UserId};
use testudo_store::{Expected, Versioned};

use super::{
    Expectation, Provisioner, ScimAnswer, Stamps,
    error::ScimError,
    filter::Filter,
    patch::{Operation, Verb, read_operations},
    schema::ResourceType,
    search::Query,
    values::{read_resource, read_value},
};
use crate::{
    AdminError, Fault, MemberKind, MemberView, Provider,
    admin::{check_count, check_nesting_of, stage_nesting},
    change::{Change, until_settled},
    limits::{MAX_MEMBER_CHANGES, MAX_MEMBERSHIPS},
    records::{Group, User},
};

/// Groups that were looked up before.
#[derive(Default)]
pub(super) struct GroupLookup(BTreeMap<GroupName, Option<Group>>);

impl GroupLookup {
    pub(super) fn get(
        &mut self,
        provider: &Provider,
        name: &GroupName,
    ) -> Result<Option<&Group>, Fault> {
        if !self.0.contains_key(name) {
            let stored = provider.tenant.get::<Group>(name.as_str())?;
            self.0
                .insert(name.clone(), stored.map(|stored| stored.record));
        }
        Ok(self.0.get(name).and_then(Option::as_ref))
    }
}

impl Provider {
    /// A group as a resource, with or without who is in it.
    pub(super) fn group_resource(
        &self,
        stored: &Versioned<Group>,
        with_members: bool,
    ) -> Result<Value, ScimError> {
        let group = &stored.record;
        let base = self.scim_base();
        let mut resource = writable(group);
        if with_members {
            let members = self.members(&group.name, false)?;
            let shown = members
                .iter()
                .filter_map(|member| member_resource(&base, member));
            let shown: Vec<Value> = shown.collect();
            if !shown.is_empty() {
                resource.insert("members".to_owned(), Value::Array(shown));
            }
        }
        let stamps = Stamps {
            id: group.id.as_str(),
            created_at: group.created_at,
            updated_at: group.updated_at,
            version: stored.version,
        };
        stamps.put_on(&mut resource, ResourceType::Group, &base);
        Ok(Value::Object(resource))
    }

    pub(super) fn scim_group(&self, id: &str) -> Result<Value, ScimError> {
        self.group_resource(&self.stored_scim_group(id)?, true)
    }

    fn stored_scim_group(&self, id: &str) -> Result<Versioned<Group>, ScimError> {
        let not_found = || ScimError::not_found("group");
        let id: GroupId = id.parse().map_err(|_| not_found())?;
        let mut found = self.tenant.find::<Group>("id", id.as_str())?;
        found.pop().ok_or_else(not_found)
    }

    pub(super) fn create_scim_group(
        &self,
        body: &Value,
        by: &Provisioner,
    ) -> Result<Value, ScimError> {
        let mut resource = read_resource(ResourceType::Group, body)?;
        let members = Members::exactly(resource.remove("members").as_ref())?;
        let draft = Draft::of(&resource)?;
        let ulid = || Ulid::generate(&*self.clock, &*self.entropy);
        let name = policy_name(&draft.display_name, ulid)?;
        let id = until_settled(|| {
            let nesting = self.nesting()?;
            if self.tenant.get::<Group>(name.as_str())?.is_some() {
                let why = format!("there is a group `{name}`");
                return Err(ScimError::new(409, Some("uniqueness"), why));
            }
            let group = draft.applied(self.blank_group(&name));
            self.refuse_reserved_group(&group, by)?;
            let report = self
                .account_report("group.create", name.as_str())
                .detail("source", "scim");
            let change = self.change().put(Expected::Absent, &group);
            let change = change.report(report, &by.caller);
            let (change, _) = self.stage_members(change, &name, &members, by)?;
            let done = stage_nesting(change, nesting).commit()?;
            Ok(done.then_some(group.id))
        })?;
        self.scim_group(id.as_str())
    }

    pub(super) fn replace_scim_group(
        &self,
        id: &str,
        body: &Value,
        expected: Expectation<'_>,
        by: &Provisioner,
    ) -> Result<Value, ScimError> {
        let mut resource = read_resource(ResourceType::Group, body)?;
        let members = Members::exactly(resource.remove("members").as_ref())?;
        let draft = Draft::of(&resource)?;
        until_settled(|| {
            let stored = self.stored_scim_group(id)?;
            expected.check(stored.version)?;
            self.settle_scim_group(stored, &draft, &members, by)
        })?;
        self.scim_group(id)
    }

    pub(super) fn patch_scim_group(
        &self,
        id: &str,
        body: &Value,
        expected: Expectation<'_>,
        by: &Provisioner,
    ) -> Result<(), ScimError> {
        let operations = read_operations(ResourceType::Group, body)?;
        until_settled(|| {
            let stored = self.stored_scim_group(id)?;
            expected.check(stored.version)?;
            let mut resource = writable(&stored.record);
            let mut members = Members::default();
            for operation in &operations {
                if operation.path.attribute.name == "members" {
                    let present = || self.present(&stored.record.name);
                    members.apply(operation, &self.scim_base(), present)?;
                } else {
                    operation.apply(&mut resource)?;
                }
            }
            let draft = Draft::of(&resource)?;
            self.settle_scim_group(stored, &draft, &members, by)
        })
    }

    /// The answer to a change of parts of a group: its new version, and what was asked for. A large group is not read to
    /// tell of one member.
    pub(super) fn patched_scim_group(
        &self,
        id: &str,
        query: &Query,
    ) -> Result<ScimAnswer, ScimError> {
        let of = ResourceType::Group;
        if query.names_attributes() {
            return Ok(ScimAnswer::resource(200, &self.scim_group(id)?, query, of));
        }
        let told = self.group_resource(&self.stored_scim_group(id)?, false)?;
        Ok(ScimAnswer {
            status: 204,
            body: None,
            ..ScimAnswer::resource(204, &told, query, of)
        })
    }

    pub(super) fn delete_scim_group(
        &self,
        id: &str,
        expected: Expectation<'_>,
        by: &Provisioner,
    ) -> Result<(), ScimError> {
        until_settled(|| {
            let stored = self.stored_scim_group(id)?;
            expected.check(stored.version)?;
            self.refuse_reserved_group(&stored.record, by)?;
            let name = &stored.record.name;
            match self.delete_group(name, stored.version, true, &by.caller) {
                Ok(()) => Ok(Some(())),
                // Looked at again: whether it is still the one that is meant is for `expected` to say.
                Err(AdminError::Stale { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Makes a group what is said, in one attempt. Nothing is written if it is that already.
    fn settle_scim_group(
        &self,
        stored: Versioned<Group>,
        draft: &Draft,
        members: &Members,
        by: &Provisioner,
    ) -> Result<Option<()>, ScimError> {
        let nesting = self.nesting()?;
        let before = &stored.record;
        let after = draft.applied(before.clone());
        let name = before.name.clone();
        let (change, has_others) = self.stage_members(self.change(), &name, members, by)?;
        if after == *before && !has_others {
            return Ok(Some(()));
        }
        self.refuse_reserved_group(before, by)?;
        let report = self
            .account_report("group.update", name.as_str())
            .detail("source", "scim");
        let has_changed = after != *before;
        let after = Group {
            updated_at: self.clock.now(),
            ..after
        };
        let change = change.put(Expected::Version(stored.version), &after);
        let change = match has_changed {
            true => change.report(report, &by.caller),
            false => change,
        };
        Ok(stage_nesting(change, nesting).commit()?.then_some(()))
    }

    /// Refuses to make or change a group that is reserved, or gives something reserved, itself or through the groups around it.
    fn refuse_reserved_group(&self, group: &Group, by: &Provisioner) -> Result<(), ScimError> {
        let Some(reserved) = &by.reserved else {
            return Ok(());
        };
        if reserved.groups.contains(&group.name)
            || self.has_reserved(reserved, &group.roles, &group.parents)?
        {
            return Err(ScimError::forbidden(
                "this group makes administrators; it is changed by administrators",
            ));
        }
        Ok(())
    }

    /// Users and groups that are in a group.
    fn present(&self, group: &GroupName) -> Result<Vec<MemberView>, ScimError> {
        let mut members = self.members(group, false)?;
        members.retain(|member| member.kind != MemberKind::ServiceAccount);
        Ok(members)
    }

    /// Adds who comes and who goes. Answers whether anybody does.
    fn stage_members<'p>(
        &self,
        mut change: Change<'p>,
        group: &GroupName,
        members: &Members,
        by: &Provisioner,
    ) -> Result<(Change<'p>, bool), ScimError> {
        let (coming, going) = match &members.all {
            None => (members.coming.clone(), members.going.clone()),
            Some(all) => {
                let is_there = self.tenant.get::<Group>(group.as_str())?.is_some();
                let present = if is_there {
                    self.present(group)?
                } else {
                    Vec::new()
                };
                let present: BTreeSet<MemberId> = present.iter().filter_map(MemberId::of).collect();
                let coming = all.difference(&present).cloned().collect();
                (coming, present.difference(all).cloned().collect())
            }
        };
        if coming.len() + going.len() > MAX_MEMBER_CHANGES {
            let why = format!("more than {MAX_MEMBER_CHANGES} members come or go");
            return Err(ScimError::too_many(why));
        }
        let mut has_others = false;
        let mut groups: Option<BTreeMap<GroupName, Vec<GroupName>>> = None;
        let who = coming.iter().map(|who| (who, true));
        for (who, is_in) in who.chain(going.iter().map(|who| (who, false))) {
            let staged = match who {
                MemberId::User(id) => self.stage_user_member(change, group, id, is_in, by)?,
                MemberId::Group(id) => {
                    let known = match &mut groups {
                        Some(known) => known,
                        unknown => unknown.insert(self.nested_groups()?),
                    };
                    self.stage_group_member(change, group, id, is_in, known, by)?
                }
            };
            change = staged.0;
            has_others |= staged.1;
        }
        Ok((change, has_others))
    }

    fn nested_groups(&self) -> Result<BTreeMap<GroupName, Vec<GroupName>>, Fault> {
        let groups = self.all::<Group>()?.into_iter();
        Ok(groups.map(|group| (group.name, group.parents)).collect())
    }

    fn stage_user_member<'p>(
        &self,
        change: Change<'p>,
        group: &GroupName,
        id: &UserId,
        is_in: bool,
        by: &Provisioner,
    ) -> Result<(Change<'p>, bool), ScimError> {
        let Some(stored) = self.tenant.get::<User>(id.as_str())? else {
            return match is_in {
                true => Err(ScimError::value(format!("there is no user `{id}`"))),
                false => Ok((change, false)),
            };
        };
        let mut user = stored.record;
        if !set(&mut user.groups, group, is_in)? {
            return Ok((change, false));
        }
        user.updated_at = self.clock.now();
        let change = change.put(Expected::Version(stored.version), &user);
        let (kind, name) = (MemberKind::User, user.username.as_str());
        let change = self.report_membership(change, group, kind, name, is_in, &by.caller);
        Ok((change, true))
    }

    fn stage_group_member<'p>(
        &self,
        change: Change<'p>,
        group: &GroupName,
        id: &GroupId,
        is_in: bool,
        known: &mut BTreeMap<GroupName, Vec<GroupName>>,
        by: &Provisioner,
    ) -> Result<(Change<'p>, bool), ScimError> {
        let Some(stored) = self.tenant.find::<Group>("id", id.as_str())?.pop() else {
            return match is_in {
                true => Err(ScimError::value(format!("there is no group `{id}`"))),
                false => Ok((change, false)),
            };
        };
        let mut child = stored.record;
        if !set(&mut child.parents, group, is_in)? {
            return Ok((change, false));
        }
        known.entry(group.clone()).or_default();
        known.insert(child.name.clone(), child.parents.clone());
        check_nesting_of(known, &child.name)?;
        child.updated_at = self.clock.now();
        let change = change.put(Expected::Version(stored.version), &child);
        let (kind, name) = (MemberKind::Group, child.name.as_str());
        let change = self.report_membership(change, group, kind, name, is_in, &by.caller);
        Ok((change, true))
    }
}

/// Puts a group into a list or takes it out. `false`: it is so already.
fn set(groups: &mut Vec<GroupName>, group: &GroupName, is_in: bool) -> Result<bool, ScimError> {
    if groups.contains(group) == is_in {
        return Ok(false);
    }
    if is_in {
        groups.push(group.clone());
        check_count("list of groups", groups.len(), MAX_MEMBERSHIPS)?;
    } else {
        groups.retain(|other| other != group);
    }
    Ok(true)
}

/// Somebody who can be in a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum MemberId {
    User(UserId),
    Group(GroupId),
}

impl MemberId {
    fn parse(text: &str) -> Result<Self, ScimError> {
        let user = text.parse().map(Self::User);
        let member = user.or_else(|_| text.parse().map(Self::Group));
        member.map_err(|_| ScimError::value(format!("`{text}` is no id of a user or group")))
    }

    fn of(member: &MemberView) -> Option<Self> {
        Self::parse(&member.id).ok()
    }

    /// The members in a value of `members`.
    fn all(given: Option<&Value>) -> Result<BTreeSet<Self>, ScimError> {
        let given = given.and_then(Value::as_array).map(Vec::as_slice);
        let id = |one: &Value| match one.get("value").and_then(Value::as_str) {
            Some(id) => Self::parse(id),
            None => Err(ScimError::value("a member has no `value`")),
        };
        given.unwrap_or_default().iter().map(id).collect()
    }
}

/// Who is to be in a group, or to come and go.
#[derive(Debug, Default)]
struct Members {
    /// If given, all who are to be in it.
    all: Option<BTreeSet<MemberId>>,
    coming: BTreeSet<MemberId>,
    going: BTreeSet<MemberId>,
}

impl Members {
    fn exactly(given: Option<&Value>) -> Result<Self, ScimError> {
        Ok(Self {
            all: Some(MemberId::all(given)?),
            ..Self::default()
        })
    }

    fn add(&mut self, id: MemberId) {
        match &mut self.all {
            Some(all) => {
                all.insert(id);
            }
            None => {
                self.going.remove(&id);
                self.coming.insert(id);
            }
        }
    }

    fn remove(&mut self, id: MemberId) {
        match &mut self.all {
            Some(all) => {
                all.remove(&id);
            }
            None => {
                self.coming.remove(&id);
                self.going.insert(id);
            }
        }
    }

    /// Does one change of a patch. `present` tells who is in the group, for those that do not say whom they mean: most do,
    /// and a large group is not read to let one member go.
    fn apply(
        &mut self,
        operation: &Operation,
        base: &str,
        present: impl Fn() -> Result<Vec<MemberView>, ScimError>,
    ) -> Result<(), ScimError> {
        let Operation { verb, path, value } = operation;
        if path.part.is_some() || (path.filter.is_some() && *verb != Verb::Remove) {
            return Err(ScimError::mutability("members come and go as a whole"));
        }
        if let Some(filter) = &path.filter {
            return match filter.demands("value") {
                Some(id) if matches!(filter, Filter::Compare(..)) => {
                    self.remove(MemberId::parse(id)?);
                    Ok(())
                }
                _ => self.remove_matching(filter, base, present),
            };
        }
        let given = MemberId::all(read_value(path.attribute, value)?.as_ref())?;
        match verb {
            Verb::Add => given.into_iter().for_each(|id| self.add(id)),
            Verb::Remove if !given.is_empty() => given.into_iter().for_each(|id| self.remove(id)),
            Verb::Replace | Verb::Remove => {
                *self = Self {
                    all: Some(given),
                    ..Self::default()
                };
            }
        }
        Ok(())
    }

    fn remove_matching(
        &mut self,
        filter: &Filter,
        base: &str,
        present: impl Fn() -> Result<Vec<MemberView>, ScimError>,
    ) -> Result<(), ScimError> {
        for member in present()? {
            let is_meant = member_resource(base, &member).is_some_and(|one| filter.matches(&one));
            if let Some(id) = MemberId::of(&member)
                && is_meant
            {
                self.remove(id);
            }
        }
        Ok(())
    }
}

fn member_resource(base: &str, member: &MemberView) -> Option<Value> {
    let of = match member.kind {
        MemberKind::User => ResourceType::User,
        MemberKind::Group => ResourceType::Group,
        MemberKind::ServiceAccount => return None,
    };
    Some(json!({
        "value": member.id,
        "$ref": format!("{base}/{}/{}", of.endpoint(), member.id),
        "type": of.name(),
        "display": member.name,
    }))
}

/// The attributes that a client may write and read, without the members.
fn writable(group: &Group) -> Map<String, Value> {
    let shown = group.display_name.as_deref().unwrap_or(group.name.as_str());
    let mut resource = Map::from_iter([("displayName".to_owned(), json!(shown))]);
    if let Some(external_id) = &group.external_id {
        resource.insert("externalId".to_owned(), json!(external_id));
    }
    resource
}

/// What a client wants a group to be called.
struct Draft {
    display_name: String,
    external_id: Option<String>,
}

impl Draft {
    fn of(resource: &Map<String, Value>) -> Result<Self, ScimError> {
        let text = |name: &str| {
            resource
                .get(name)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let display_name = text("displayName");
        Ok(Self {
            display_name: display_name
                .ok_or_else(|| ScimError::value("`displayName` is missing"))?,
            external_id: text("externalId"),
        })
    }

    fn applied(&self, group: Group) -> Group {
        let is_name = self.display_name == group.name.as_str();
        let display_name = match is_name && group.display_name.is_none() {
            true => None,
            false => Some(self.display_name.clone()),
        };
        Group {
            display_name,
            external_id: self.external_id.clone(),
            ..group
        }
    }
}

/// The name in policies of a group that people call `shown`: `Sales (EMEA)` is `sales-emea`.
fn policy_name(shown: &str, otherwise: impl Fn() -> Ulid) -> Result<GroupName, ScimError> {
    let mut name = String::new();
    for character in shown.to_lowercase().chars() {
        match character {
            'a'..='z' | '0'..='9' | '.' | '_' | ':' => name.push(character),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    let is_edge = |character: char| !character.is_ascii_alphanumeric();
    let short: String = name.trim_matches(is_edge).chars().take(64).collect();
    let name = short.trim_end_matches(is_edge).parse();
    // Of what has no such letters there is none: any will do.
    let made = || format!("group-{}", otherwise().as_str().to_lowercase()).parse();
    name.or_else(|_: InvalidName| made())
        .map_err(|error| ScimError::value(format!("`displayName`: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_for_people_gives_one_for_policies() {
        let ulid = || "01M81RGDQM7AD69PCSBH7H9W43".parse().unwrap();
        let long = "x".repeat(63) + " y";
        for (shown, name) in [
            ("customers", "customers"),
            ("Sales (EMEA) / DACH", "sales-emea-dach"),
            ("  .hidden. ", "hidden"),
            ("Größe", "gr-e"),
            (
                "c0ffee00-1111-4222-8333-944445555666",
                "c0ffee00-1111-4222-8333-944445555666",
            ),
            ("销售", "group-01m81rgdqm7ad69pcsbh7h9w43"),
            (&long, &"x".repeat(63)),
        ] {
            assert_eq!(policy_name(shown, ulid).unwrap().as_str(), name);
        }
    }
}
