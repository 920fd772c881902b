//! Finding resources, in pages, and showing as much of them as was asked for (RFC 7644 sections 3.4 and 3.9).

use std::cmp::Ordering;

use serde_json::{Map, Value, json};
use testudo_store::{Record, Versioned};

use super::{
    ScimAnswer,
    error::ScimError,
    filter::{Filter, Place},
    groups::GroupLookup,
    parse,
    schema::{Attribute, ResourceType, Returned},
    values::{expect_schema, member, object},
};
use crate::{
    Fault, Provider,
    limits::{MAX_PAGE, MAX_SCIM_PAGE, MAX_SORTED},
    records::{Group, Holder, NameClaim, User},
};

const LIST: &str = "urn:ietf:params:scim:api:messages:2.0:ListResponse";
const SEARCH: &str = "urn:ietf:params:scim:api:messages:2.0:SearchRequest";
/// Resources of a page if nothing is said.
const DEFAULT_PAGE: usize = 100;

/// What is asked for.
#[derive(Debug, Default)]
pub(super) struct Query {
    filter: Option<String>,
    sort_by: Option<String>,
    descending: bool,
    start_index: i64,
    count: Option<i64>,
    attributes: Vec<String>,
    excluded: Vec<String>,
}

impl Query {
    /// Reads the query of an address.
    pub(super) fn parse(query: &str) -> Result<Self, ScimError> {
        let mut read = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let number = || {
                let wrong = || ScimError::value(format!("`{name}` is to be a number"));
                value.parse::<i64>().map_err(|_| wrong())
            };
            match &*name {
                "filter" => read.filter = Some(value.into_owned()),
                "sortBy" => read.sort_by = Some(value.into_owned()),
                "sortOrder" => read.descending = is_descending(&value)?,
                "startIndex" => read.start_index = number()?,
                "count" => read.count = Some(number()?),
                "attributes" => read.attributes.extend(listed(&value)),
                "excludedAttributes" => read.excluded.extend(listed(&value)),
                _ => {}
            }
        }
        read.checked()
    }

    /// Reads the body of a search.
    pub(super) fn of_body(body: &[u8]) -> Result<Self, ScimError> {
        let body = parse(body)?;
        let body = object(&body)?;
        expect_schema(body, SEARCH)?;
        let text = |name: &str| match member(body, name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(ScimError::value(format!("`{name}` is to be a text"))),
        };
        let number = |name: &str| match member(body, name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_i64() {
                Some(number) => Ok(Some(number)),
                None => Err(ScimError::value(format!("`{name}` is to be a number"))),
            },
        };
        let list = |name: &str| match member(body, name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(listed(one).collect()),
            Some(Value::Array(many)) if many.iter().all(Value::is_string) => Ok(many
                .iter()
                .filter_map(Value::as_str)
                .flat_map(listed)
                .collect()),
            Some(_) => Err(ScimError::value(format!(
                "`{name}` is to be a list of texts"
            ))),
        };
        Self {
            filter: text("filter")?,
            sort_by: text("sortBy")?,
            descending: match text("sortOrder")? {
                Some(order) => is_descending(&order)?,
                None => false,
            },
            start_index: number("startIndex")?.unwrap_or(1),
            count: number("count")?,
            attributes: list("attributes")?,
            excluded: list("excludedAttributes")?,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, ScimError> {
        if self.attributes.is_empty() || self.excluded.is_empty() {
            return Ok(self);
        }
        Err(ScimError::value(
            "either `attributes` or `excludedAttributes`",
        ))
    }

    pub(super) const fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// Whether it is said how much of a resource is wanted.
    pub(super) fn names_attributes(&self) -> bool {
        !(self.attributes.is_empty() && self.excluded.is_empty())
    }

    /// Where the page begins, from 1.
    fn start(&self) -> usize {
        usize::try_from(self.start_index).unwrap_or(0).max(1)
    }

    fn count(&self) -> usize {
        let wanted = self.count.map(|count| usize::try_from(count).unwrap_or(0));
        wanted.unwrap_or(DEFAULT_PAGE).min(MAX_SCIM_PAGE)
    }

    /// Whether `name`, without regard to its parts, may be in an answer.
    fn shows(&self, name: &str) -> bool {
        let is_named = |list: &[String]| list.iter().any(|path| within(path, name).is_some());
        let is_excluded = || {
            self.excluded
                .iter()
                .any(|path| within(path, name) == Some(""))
        };
        (self.attributes.is_empty() || is_named(&self.attributes)) && !is_excluded()
    }

    /// As much of `resource` as is asked for.
    pub(super) fn projected(&self, resource: &Value, of: ResourceType) -> Value {
        let mut shown = Map::new();
        for attribute in of.attributes() {
            let Some(value) = resource.get(attribute.name) else {
                continue;
            };
            if let Some(value) = self.cut(value, attribute, None, of) {
                shown.insert(attribute.name.to_owned(), value);
            }
        }
        Value::Object(shown)
    }

    fn cut(
        &self,
        value: &Value,
        attribute: &Attribute,
        parent: Option<&Attribute>,
        of: ResourceType,
    ) -> Option<Value> {
        if !self.is_shown(attribute, parent, of) {
            return None;
        }
        if attribute.parts().is_empty() {
            return Some(value.clone());
        }
        match value {
            Value::Array(values) => {
                let cut = values
                    .iter()
                    .filter_map(|value| self.cut_parts(value, attribute, of));
                let cut: Vec<Value> = cut.collect();
                (!cut.is_empty()).then_some(Value::Array(cut))
            }
            value => self.cut_parts(value, attribute, of),
        }
    }

    fn cut_parts(&self, value: &Value, attribute: &Attribute, of: ResourceType) -> Option<Value> {
        let mut shown = Map::new();
        for part in attribute.parts() {
            let value = value.get(part.name);
            let value = value.and_then(|value| self.cut(value, part, Some(attribute), of));
            if let Some(value) = value {
                shown.insert(part.name.to_owned(), value);
            }
        }
        (!shown.is_empty()).then_some(Value::Object(shown))
    }

    fn is_shown(
        &self,
        attribute: &Attribute,
        parent: Option<&Attribute>,
        of: ResourceType,
    ) -> bool {
        let names = |path: &String| {
            let path = without_schema(path, of);
            match parent {
                None => within(path, attribute.name).is_some(),
                Some(parent) => match within(path, parent.name) {
                    Some(part) => part.eq_ignore_ascii_case(attribute.name),
                    None => false,
                },
            }
        };
        // Who names an attribute as a whole gets all parts but those that have to be named.
        let names_whole = |path: &String| {
            parent.is_some_and(|parent| within(without_schema(path, of), parent.name) == Some(""))
        };
        let is_named = self.attributes.iter().any(names);
        let is_excluded = self.excluded.iter().any(|path| {
            let path = without_schema(path, of);
            match parent {
                None => within(path, attribute.name) == Some(""),
                Some(_) => names(&path.to_owned()),
            }
        });
        match attribute.returned {
            Returned::Always => true,
            Returned::Never => false,
            Returned::Request => is_named,
            Returned::Default => {
                let is_wanted = self.attributes.is_empty()
                    || is_named
                    || self.attributes.iter().any(names_whole);
                is_wanted && !is_excluded
            }
        }
    }
}

/// What follows `name` in a path: nothing, or the part behind the dot. None: the path is of something else.
fn within<'p>(path: &'p str, name: &str) -> Option<&'p str> {
    let (own, part) = path.split_once('.').unwrap_or((path, ""));
    own.eq_ignore_ascii_case(name).then_some(part)
}

/// A path without the schema of its resource before it.
fn without_schema(path: &str, of: ResourceType) -> &str {
    match path.rsplit_once(':') {
        Some((schema, path)) if schema.eq_ignore_ascii_case(of.urn()) => path,
        _ => path,
    }
}

fn listed(list: &str) -> impl Iterator<Item = String> {
    list.split(',')
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect::<Vec<_>>()
        .into_iter()
}

fn is_descending(order: &str) -> Result<bool, ScimError> {
    match order {
        "ascending" => Ok(false),
        "descending" => Ok(true),
        _ => Err(ScimError::value(
            "`sortOrder` is `ascending` or `descending`",
        )),
    }
}

/// A list from `start` on, all of which is in it.
pub(super) fn list_response(start: usize, resources: Vec<Value>) -> ScimAnswer {
    page_response(resources.len(), start, resources)
}

fn page_response(total: usize, start: usize, resources: Vec<Value>) -> ScimAnswer {
    ScimAnswer::found(json!({
        "schemas": [LIST],
        "totalResults": total,
        "startIndex": start,
        "itemsPerPage": resources.len(),
        "Resources": resources,
    }))
}

/// What a search has found so far.
struct Found<'q> {
    query: &'q Query,
    sort_by: Option<Place>,
    total: usize,
    /// Those of the page, or all if they are sorted.
    kept: Vec<(Value, ResourceType)>,
}

impl Found<'_> {
    fn take(&mut self, resource: Value, of: ResourceType) -> Result<(), ScimError> {
        self.total += 1;
        if self.sort_by.is_some() {
            if self.total > MAX_SORTED {
                let why = format!("more than {MAX_SORTED} resources are not sorted; filter them");
                return Err(ScimError::too_many(why));
            }
            self.kept.push((resource, of));
        } else if self.total >= self.query.start() && self.kept.len() < self.query.count() {
            self.kept.push((resource, of));
        }
        Ok(())
    }

    fn answer(mut self) -> ScimAnswer {
        let start = self.query.start();
        if let Some(place) = self.sort_by {
            self.kept.sort_by(|(a, _), (b, _)| {
                let order = by_key(key(&place, a).as_deref(), key(&place, b).as_deref());
                if self.query.descending {
                    order.reverse()
                } else {
                    order
                }
            });
            let page = self.kept.drain(..).skip(start - 1).take(self.query.count());
            let page: Vec<_> = page.collect();
            self.kept = page;
        }
        let shown = self.kept.iter();
        let shown = shown.map(|(resource, of)| self.query.projected(resource, *of));
        page_response(self.total, start, shown.collect())
    }
}

/// What a resource is sorted by: of many values the primary or first one (RFC 7644 section 3.4.2.3).
fn key(place: &Place, resource: &Value) -> Option<String> {
    let is_primary = |value: &&Value| value.get("primary") == Some(&Value::Bool(true));
    let whole = Place {
        part: None,
        ..*place
    };
    let value = whole.values(resource).find(is_primary);
    let value = value.or_else(|| whole.values(resource).next())?;
    let part = place.part.or_else(|| place.attribute.part("value"));
    let value = match part {
        Some(part) => value.get(part.name)?,
        None => value,
    };
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    let is_exact = part.unwrap_or(place.attribute).is_case_exact;
    Some(if is_exact { text } else { text.to_lowercase() })
}

/// Resources without a value come last.
fn by_key(a: Option<&str>, b: Option<&str>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

impl Provider {
    /// The page of resources that `query` asks for.
    pub(super) fn search(
        &self,
        types: &[ResourceType],
        query: &Query,
    ) -> Result<ScimAnswer, ScimError> {
        let filter = query.filter.as_deref();
        let filter = filter
            .map(|filter| Filter::parse(filter, types))
            .transpose()?;
        let sort_by = query.sort_by.as_deref().map(|path| {
            let mut places = types.iter().map(|of| Place::parse(path, *of));
            let found = places.find_map(Result::ok);
            found.ok_or_else(|| ScimError::path(format!("there is no attribute `{path}`")))
        });
        let mut found = Found {
            query,
            sort_by: sort_by.transpose()?,
            total: 0,
            kept: Vec::new(),
        };
        for of in types {
            match of {
                ResourceType::User => self.search_users(filter.as_ref(), &mut found)?,
                ResourceType::Group => self.search_groups(filter.as_ref(), &mut found)?,
            }
        }
        Ok(found.answer())
    }

    fn search_users(
        &self,
        filter: Option<&Filter>,
        found: &mut Found<'_>,
    ) -> Result<(), ScimError> {
        let mut groups = GroupLookup::default();
        self.each::<User>(self.named_users(filter)?, |stored| {
            let resource = self.user_resource(stored, &mut groups)?;
            if filter.is_none_or(|filter| filter.matches(&resource)) {
                found.take(resource, ResourceType::User)?;
            }
            Ok(())
        })
    }

    /// The only users who can match, if the filter names them.
    fn named_users(&self, filter: Option<&Filter>) -> Result<Option<Vec<Versioned<User>>>, Fault> {
        let Some(filter) = filter else {
            return Ok(None);
        };
        if let Some(id) = filter.demands("id") {
            return Ok(Some(self.tenant.get::<User>(id)?.into_iter().collect()));
        }
        if let Some(id) = filter.demands("externalId") {
            return Ok(Some(self.tenant.find::<User>("external_id", id)?));
        }
        let Some(name) = filter.demands("userName") else {
            return Ok(None);
        };
        let Ok(username) = name.to_lowercase().parse() else {
            return Ok(Some(Vec::new()));
        };
        let claim = self
            .tenant
            .get::<NameClaim>(&NameClaim::user_key(&username))?;
        match claim.map(|claim| claim.record.holder) {
            Some(Holder::User(id)) => Ok(Some(
                self.tenant.get::<User>(id.as_str())?.into_iter().collect(),
            )),
            _ => Ok(Some(Vec::new())),
        }
    }

    fn search_groups(
        &self,
        filter: Option<&Filter>,
        found: &mut Found<'_>,
    ) -> Result<(), ScimError> {
        let named = match filter.and_then(|filter| filter.demands("externalId")) {
            Some(id) => Some(self.tenant.find::<Group>("external_id", id)?),
            None => None,
        };
        let is_sorted_by_them = found
            .sort_by
            .is_some_and(|place| place.attribute.name == "members");
        let members_matter =
            is_sorted_by_them || filter.is_some_and(|filter| filter.asks_about("members"));
        let members_shown = found.query.shows("members");
        self.each::<Group>(named, |stored| {
            // Who is in them takes a look for each: only for those that are shown, if it can be.
            let mut resource = self.group_resource(stored, members_matter)?;
            if !filter.is_none_or(|filter| filter.matches(&resource)) {
                return Ok(());
            }
            if members_shown && !members_matter {
                resource = self.group_resource(stored, true)?;
            }
            found.take(resource, ResourceType::Group)
        })
    }

    /// Each of `named`, or of all records.
    fn each<R: Record>(
        &self,
        named: Option<Vec<Versioned<R>>>,
        mut take: impl FnMut(&Versioned<R>) -> Result<(), ScimError>,
    ) -> Result<(), ScimError> {
        if let Some(named) = named {
            return named.iter().try_for_each(take);
        }
        let mut after = None;
        loop {
            let page = self.tenant.list::<R>(after, MAX_PAGE)?;
            page.items.iter().try_for_each(&mut take)?;
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}
