//! SCIM over the directory: the same people, whoever speaks of them.

use std::{collections::BTreeSet, thread};

use serde_json::{Value, json};
use testudo_identity::{
    GroupProfile, MemberKind, Provider, Provisioner, Reserved, RoleProfile, ScimAnswer, ScimMethod,
    ScimRequest, UserProfile,
};
use testudo_model::{UserId, snapshot::Revoked};

use crate::house::{House, PASSWORD};

const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";
const PATCH: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
const BULK: &str = "urn:ietf:params:scim:api:messages:2.0:BulkRequest";
const SEARCH: &str = "urn:ietf:params:scim:api:messages:2.0:SearchRequest";
const ADMIN: &str = "testudo-admin";

fn by(house: &House) -> Provisioner {
    Provisioner {
        caller: house.caller.clone(),
        reserved: Some(Reserved {
            roles: vec![ADMIN.parse().unwrap()],
            ..Reserved::default()
        }),
    }
}

fn ask_at(
    provider: &Provider,
    by: &Provisioner,
    (method, path): (ScimMethod, &str),
    body: &Value,
    if_match: Option<&str>,
) -> ScimAnswer {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let body = match body {
        Value::Null => Vec::new(),
        body => body.to_string().into_bytes(),
    };
    let request = ScimRequest {
        method,
        path,
        query,
        body: &body,
        if_match,
        if_none_match: None,
    };
    provider.scim(&request, by).unwrap()
}

fn ask(house: &House, method: ScimMethod, path: &str, body: Value) -> ScimAnswer {
    ask_at(&house.provider, &by(house), (method, path), &body, None)
}

fn done(house: &House, method: ScimMethod, path: &str, body: Value) -> Value {
    let answer = ask(house, method, path, body);
    assert!(answer.status < 300, "{path}: {answer:?}");
    answer.body.unwrap_or(Value::Null)
}

fn get(house: &House, path: &str) -> Value {
    done(house, ScimMethod::Get, path, Value::Null)
}

/// Status and `scimType` of a refusal.
pub fn refused(house: &House, method: ScimMethod, path: &str, body: Value) -> (u16, String) {
    let answer = ask(house, method, path, body);
    let body = answer.body.unwrap();
    assert_eq!(
        body["schemas"][0],
        "urn:ietf:params:scim:api:messages:2.0:Error"
    );
    assert_eq!(body["status"], answer.status.to_string());
    let kind = body["scimType"].as_str().unwrap_or("").to_owned();
    (answer.status, kind)
}

fn new_user(house: &House, name: &str) -> String {
    let body = json!({ "schemas": [USER], "userName": name, "active": true });
    let made = done(house, ScimMethod::Post, "/Users", body);
    made["id"].as_str().unwrap().to_owned()
}

fn new_group(house: &House, name: &str, members: &[&str]) -> String {
    let members: Vec<Value> = members.iter().map(|id| json!({ "value": id })).collect();
    let body = json!({ "schemas": [GROUP], "displayName": name, "members": members });
    let made = done(house, ScimMethod::Post, "/Groups", body);
    made["id"].as_str().unwrap().to_owned()
}

fn patch(operations: Value) -> Value {
    json!({ "schemas": [PATCH], "Operations": operations })
}

fn members(house: &House, group: &str) -> BTreeSet<String> {
    let group = get(house, &format!("/Groups/{group}"));
    let members = group["members"].as_array().cloned().unwrap_or_default();
    let id = |member: &Value| member["value"].as_str().unwrap().to_owned();
    members.iter().map(id).collect()
}

#[test]
fn a_user_is_made_read_changed_and_gone() {
    let house = House::new();
    let body = json!({
        "schemas": [USER],
        "userName": "BJensen@example.com",
        "externalId": "701984",
        "name": { "givenName": "Barbara", "familyName": "Jensen" },
        "displayName": "Babs",
        "emails": [
            { "value": "babs@jensen.org", "type": "home" },
            { "value": "bjensen@example.com", "type": "work", "primary": true },
        ],
        "active": true,
        "password": PASSWORD,
        "id": "usr_mine", "meta": { "version": "W/\"1\"" }, "nickName": "unknown here",
    });
    let answer = ask(&house, ScimMethod::Post, "/Users", body);
    assert_eq!(answer.status, 201, "{answer:?}");
    let made = answer.body.unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let path = format!("/Users/{id}");
    assert_eq!(made["userName"], "bjensen@example.com");
    assert_eq!(
        answer.location.as_deref(),
        made["meta"]["location"].as_str()
    );
    assert_eq!(answer.version.as_deref(), made["meta"]["version"].as_str());
    assert!(made.get("password").is_none() && made.get("nickName").is_none());
    assert_eq!(get(&house, &path), made);
    // They are the same as everywhere.
    let user: UserId = id.parse().unwrap();
    let stored = house.provider.user(&user).unwrap().record;
    assert_eq!(stored.email.as_deref(), Some("bjensen@example.com"));
    house.try_login("bjensen@example.com", PASSWORD).unwrap();

    let changed = done(
        &house,
        ScimMethod::Patch,
        &path,
        patch(json!([
            { "op": "replace", "path": "userName", "value": "barbara" },
            { "op": "replace", "path": "emails[type eq \"work\"].value", "value": "b@example.com" },
            { "op": "remove", "path": "name.givenName" },
        ])),
    );
    assert_eq!(changed["name"], json!({ "familyName": "Jensen" }));
    let stored = house.provider.user(&user).unwrap().record;
    assert_eq!(stored.email.as_deref(), Some("b@example.com"));
    assert!(house.try_login("bjensen@example.com", PASSWORD).is_err());
    house.try_login("barbara", PASSWORD).unwrap();
    // Whoever else says something else about them is right.
    let version = house.provider.user(&user).unwrap().version;
    let profile = UserProfile {
        email: Some("new@example.com".to_owned()),
        ..UserProfile::default()
    };
    house
        .provider
        .update_user(&user, version, profile, &house.caller)
        .unwrap();
    assert_eq!(
        get(&house, &path)["emails"],
        json!([{ "value": "new@example.com", "primary": true }])
    );

    let replaced = done(
        &house,
        ScimMethod::Put,
        &path,
        json!({ "schemas": [USER], "userName": "barbara" }),
    );
    assert!(replaced.get("emails").is_none() && replaced.get("externalId").is_none());
    done(&house, ScimMethod::Delete, &path, Value::Null);
    assert_eq!(refused(&house, ScimMethod::Get, &path, Value::Null).0, 404);
    assert_eq!(
        refused(&house, ScimMethod::Delete, &path, Value::Null).0,
        404
    );
    assert!(house.try_login("barbara", PASSWORD).is_err());
    new_user(&house, "bjensen@example.com");
}

#[test]
fn names_are_taken_once_whoever_took_them() {
    let house = House::new();
    let alice = json!({ "schemas": [USER], "userName": "ALICE" });
    let taken = (409, "uniqueness".to_owned());
    assert_eq!(
        refused(&house, ScimMethod::Post, "/Users", alice.clone()),
        taken
    );
    let bob = format!("/Users/{}", new_user(&house, "bob"));
    let rename = patch(json!([{ "op": "replace", "path": "userName", "value": "alice" }]));
    assert_eq!(refused(&house, ScimMethod::Patch, &bob, rename), taken);
    assert_eq!(refused(&house, ScimMethod::Put, &bob, alice), taken);
    new_group(&house, "Sales EMEA", &[]);
    let again = json!({ "schemas": [GROUP], "displayName": "sales-emea" });
    assert_eq!(refused(&house, ScimMethod::Post, "/Groups", again), taken);
    let other = house.another_provider(9);
    let made = thread::scope(|scope| {
        let make = |provider: &Provider| {
            let body = json!({ "schemas": [USER], "userName": "carol" });
            let asked = (ScimMethod::Post, "/Users");
            ask_at(provider, &by(&house), asked, &body, None).status
        };
        let one = scope.spawn(move || make(&other));
        let two = make(&house.provider);
        [one.join().unwrap(), two]
    });
    assert!(made.contains(&201) && made.contains(&409), "{made:?}");
}

#[test]
fn who_is_deactivated_or_gets_another_password_is_out() {
    let house = House::new();
    let path = format!("/Users/{}", house.alice);
    for change in [
        json!([{ "op": "Replace", "path": "active", "value": "False" }]),
        json!([{ "op": "replace", "value": { "active": false } }]),
        json!([{ "op": "replace", "path": "password", "value": "another long password" }]),
        json!([{ "op": "remove", "path": "password" }]),
    ] {
        let tokens = house.tokens();
        let before = house.revocations().len();
        done(&house, ScimMethod::Patch, &path, patch(change.clone()));
        let revoked = house.revocations();
        let of_alice = |revoked: &Revoked| *revoked == Revoked::User(house.alice.clone());
        assert!(
            revoked
                .iter()
                .skip(before)
                .any(|entry| of_alice(&entry.what)),
            "{change}"
        );
        assert!(
            house
                .refresh(tokens.refresh_token.as_deref().unwrap())
                .is_err()
        );
        assert!(house.try_login("alice", PASSWORD).is_err(), "{change}");
        let back = json!([
            { "op": "add", "path": "active", "value": true },
            { "op": "add", "path": "password", "value": PASSWORD },
        ]);
        done(&house, ScimMethod::Patch, &path, patch(back));
        house.try_login("alice", PASSWORD).unwrap();
    }
    let short = json!([{ "op": "add", "path": "password", "value": "short" }]);
    assert_eq!(
        refused(&house, ScimMethod::Patch, &path, patch(short)).1,
        "invalidValue"
    );
    for activity in ["user.disable", "user.enable", "user.password"] {
        assert!(
            house
                .events()
                .iter()
                .any(|event| event.activity == activity),
            "{activity}"
        );
    }
}

#[test]
fn nothing_is_written_or_told_that_was_so_before() {
    let house = House::new();
    let path = format!("/Users/{}", house.alice);
    let before = get(&house, &path);
    let told = house.events().len();
    done(&house, ScimMethod::Put, &path, before.clone());
    done(
        &house,
        ScimMethod::Patch,
        &path,
        patch(json!([{ "op": "add", "path": "active", "value": true }])),
    );
    assert_eq!(get(&house, &path), before);
    let group = new_group(&house, "staff", &[house.alice.as_str()]);
    let group = format!("/Groups/{group}");
    let (before, told) = (get(&house, &group), told + 2);
    let again = json!([{ "op": "add", "path": "members", "value": [{ "value": house.alice }] }]);
    done(&house, ScimMethod::Patch, &group, patch(again));
    assert_eq!((get(&house, &group), house.events().len()), (before, told));
}

#[test]
fn members_come_and_go_as_clients_say_it() {
    let house = House::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| new_user(&house, name));
    let inner = new_group(&house, "inner", &[]);
    let group = new_group(&house, "Outer Circle", &[&a]);
    let path = format!("/Groups/{group}");
    // A machine is no resource: nobody here sees it or makes it leave.
    let machine = "restock";
    let name = "outer-circle".parse().unwrap();
    house
        .provider
        .add_member(&name, MemberKind::ServiceAccount, machine, &house.caller)
        .unwrap();
    let set =
        |ids: &[&String]| -> BTreeSet<String> { ids.iter().map(|id| (*id).clone()).collect() };
    let steps = [
        (
            json!([{ "op": "add", "path": "members", "value": [{ "value": b }, { "value": inner }] }]),
            set(&[&a, &b, &inner]),
        ),
        (
            json!([{ "op": "remove", "path": format!("members[value eq \"{a}\"]") }]),
            set(&[&b, &inner]),
        ),
        (
            json!([{ "op": "Remove", "path": "members", "value": [{ "value": b }] }]),
            set(&[&inner]),
        ),
        (
            json!([{ "op": "add", "value": { "members": [{ "value": c }] } }]),
            set(&[&c, &inner]),
        ),
        (
            json!([{ "op": "remove", "path": "members[type eq \"Group\"]" }]),
            set(&[&c]),
        ),
        (
            json!([{ "op": "replace", "path": "members", "value": [{ "value": a }, { "value": b }] }]),
            set(&[&a, &b]),
        ),
        (
            json!([
                { "op": "remove", "path": "members" },
                { "op": "add", "path": "members", "value": { "value": c } },
            ]),
            set(&[&c]),
        ),
        (
            json!([{ "op": "remove", "path": "members[value eq \"usr_00000000000000000000000000\"]" }]),
            set(&[&c]),
        ),
    ];
    for (operations, expected) in steps {
        let version = get(&house, &path)["meta"]["version"].clone();
        done(&house, ScimMethod::Patch, &path, patch(operations.clone()));
        let is_same = version == get(&house, &path)["meta"]["version"];
        assert_eq!(members(&house, &group), expected, "{operations}");
        assert_eq!(
            is_same,
            operations.to_string().contains("usr_00"),
            "{operations}"
        );
    }
    done(
        &house,
        ScimMethod::Put,
        &path,
        json!({ "schemas": [GROUP], "displayName": "Renamed" }),
    );
    assert!(members(&house, &group).is_empty());
    let stays = house.provider.members(&name, false).unwrap();
    assert_eq!(stays[0].name, machine);
    let shown = get(&house, &path);
    assert_eq!(shown["displayName"], "Renamed");
    for (operation, kind) in [
        (
            json!({ "op": "add", "path": "members", "value": [{ "value": "usr_00000000000000000000000000" }] }),
            "invalidValue",
        ),
        (
            json!({ "op": "add", "path": "members", "value": [{ "value": "sva_00000000000000000000000000" }] }),
            "invalidValue",
        ),
        (
            json!({ "op": "add", "path": "members", "value": [{ "display": "a" }] }),
            "invalidValue",
        ),
        (
            json!({ "op": "add", "path": "members", "value": [{ "value": group }] }),
            "invalidValue",
        ),
        (
            json!({ "op": "replace", "path": "members[value eq \"x\"].value", "value": a }),
            "mutability",
        ),
        (
            json!({ "op": "remove", "path": "displayName" }),
            "mutability",
        ),
    ] {
        let answer = refused(&house, ScimMethod::Patch, &path, patch(json!([operation])));
        assert_eq!(answer, (400, kind.to_owned()), "{operation}");
    }
    done(
        &house,
        ScimMethod::Patch,
        &path,
        patch(
            json!([{ "op": "add", "path": "members", "value": [{ "value": a }, { "value": inner }] }]),
        ),
    );
    done(
        &house,
        ScimMethod::Patch,
        &format!("/Groups/{inner}"),
        patch(json!([{ "op": "add", "path": "members", "value": [{ "value": b }] }])),
    );
    let groups = get(&house, &format!("/Users/{b}"))["groups"].clone();
    assert_eq!(
        (&groups[0]["type"], &groups[1]["type"]),
        (&json!("direct"), &json!("indirect"))
    );
    assert_eq!(groups[1]["value"], group);
    done(&house, ScimMethod::Delete, &path, Value::Null);
    assert!(get(&house, &format!("/Users/{a}")).get("groups").is_none());
}

#[test]
fn a_provisioner_makes_and_takes_over_no_administrator() {
    let house = House::new();
    let role = ADMIN.parse().unwrap();
    let provider = &house.provider;
    provider
        .create_role(&role, RoleProfile::default(), &house.caller)
        .unwrap();
    let profile = GroupProfile {
        roles: vec![role],
        ..GroupProfile::default()
    };
    let admins = provider
        .create_group(&"admins".parse().unwrap(), profile, &house.caller)
        .unwrap();
    let on_call = new_group(&house, "on-call", &[]);
    provider
        .add_member(&admins.name, MemberKind::Group, "on-call", &house.caller)
        .unwrap();
    let mallory = new_user(&house, "mallory");
    provider
        .add_member(&admins.name, MemberKind::User, "alice", &house.caller)
        .unwrap();
    let user = format!("/Users/{}", house.alice);
    let add = patch(json!([{ "op": "add", "path": "members", "value": [{ "value": mallory }] }]));
    let forbidden = |method, path: &str, body: Value| {
        assert_eq!(
            refused(&house, method, path, body.clone()).0,
            403,
            "{path} {body}"
        );
    };
    for group in [admins.id.as_str(), &on_call] {
        let path = format!("/Groups/{group}");
        forbidden(ScimMethod::Patch, &path, add.clone());
        let all =
            json!({ "schemas": [GROUP], "displayName": "x", "members": [{ "value": mallory }] });
        forbidden(ScimMethod::Put, &path, all);
        forbidden(ScimMethod::Delete, &path, Value::Null);
    }
    for operation in [
        json!({ "op": "add", "path": "password", "value": "known to mallory now" }),
        json!({ "op": "replace", "path": "emails", "value": [{ "value": "mallory@example.com" }] }),
        json!({ "op": "replace", "path": "userName", "value": "other" }),
    ] {
        forbidden(ScimMethod::Patch, &user, patch(json!([operation])));
    }
    // The name would be free, and the fleet file gives it rights.
    forbidden(ScimMethod::Delete, &user, Value::Null);
    let bulk = json!({ "schemas": [BULK], "Operations": [
        { "method": "PATCH", "path": format!("/Groups/{}", admins.id), "data": add },
    ]});
    let answers = done(&house, ScimMethod::Post, "/Bulk", bulk);
    assert_eq!(answers["Operations"][0]["status"], "403");
    // Who leaves the company leaves at once, and does not come back by the same way.
    let active =
        |is_active: bool| patch(json!([{ "op": "replace", "path": "active", "value": is_active }]));
    done(&house, ScimMethod::Patch, &user, active(false));
    forbidden(ScimMethod::Patch, &user, active(true));
    // An administrator may all of it.
    let administrator = Provisioner {
        caller: house.caller.clone(),
        reserved: None,
    };
    let path = format!("/Groups/{}", admins.id);
    let asked = (ScimMethod::Patch, &*path);
    let answer = ask_at(provider, &administrator, asked, &add, None);
    assert_eq!(answer.status, 204, "{answer:?}");
    forbidden(
        ScimMethod::Delete,
        &format!("/Users/{mallory}"),
        Value::Null,
    );
}

#[test]
fn a_change_decided_on_an_old_version_is_refused_and_without_one_none_is_lost() {
    let house = House::new();
    let users: Vec<String> = (0..8)
        .map(|n| new_user(&house, &format!("user-{n}")))
        .collect();
    let group = new_group(&house, "staff", &[]);
    let path = format!("/Groups/{group}");
    let version = get(&house, &path)["meta"]["version"]
        .as_str()
        .unwrap()
        .to_owned();
    let add =
        |id: &str| patch(json!([{ "op": "add", "path": "members", "value": [{ "value": id }] }]));
    thread::scope(|scope| {
        for (seed, id) in users.iter().enumerate() {
            let provider = house.another_provider(100 + seed as u64);
            let (house, path) = (&house, &path);
            scope.spawn(move || {
                let asked = (ScimMethod::Patch, &**path);
                let answer = ask_at(&provider, &by(house), asked, &add(id), None);
                assert_eq!(answer.status, 204, "{answer:?}");
            });
        }
    });
    assert_eq!(members(&house, &group).len(), users.len());
    let stale = |method, path: &str, body: &Value, version: &str| {
        let answer = ask_at(
            &house.provider,
            &by(&house),
            (method, path),
            body,
            Some(version),
        );
        answer.status
    };
    let rename = patch(json!([{ "op": "replace", "path": "displayName", "value": "x" }]));
    assert_eq!(stale(ScimMethod::Patch, &path, &rename, &version), 412);
    assert_eq!(
        stale(ScimMethod::Delete, &path, &Value::Null, &version),
        412
    );
    let now = get(&house, &path)["meta"]["version"]
        .as_str()
        .unwrap()
        .to_owned();
    let listed = format!("{version}, {now}");
    assert_eq!(stale(ScimMethod::Patch, &path, &rename, &listed), 204);
    assert_eq!(stale(ScimMethod::Delete, &path, &Value::Null, "*"), 204);
    let user = format!("/Users/{}", users[0]);
    let body = json!({ "schemas": [USER], "userName": "user-0", "displayName": "x" });
    assert_eq!(stale(ScimMethod::Put, &user, &body, &now), 412);
    assert_eq!(stale(ScimMethod::Delete, &user, &Value::Null, &now), 412);
    let answer = ask(&house, ScimMethod::Get, &user, Value::Null);
    let request = ScimRequest {
        method: ScimMethod::Get,
        path: &user,
        query: "",
        body: b"",
        if_match: None,
        if_none_match: answer.version.as_deref(),
    };
    let again = house.provider.scim(&request, &by(&house)).unwrap();
    assert_eq!((again.status, again.body), (304, None));
}

#[test]
fn lists_are_filtered_sorted_paged_and_cut() {
    let house = House::new();
    for (name, email) in [("c", "3@x.org"), ("b", "1@y.org"), ("d", "2@x.org")] {
        let body = json!({ "schemas": [USER], "userName": name, "displayName": name.to_uppercase(),
            "emails": [{ "value": email, "type": "work" }], "externalId": format!("ext-{name}") });
        done(&house, ScimMethod::Post, "/Users", body);
    }
    let names = |path: &str| -> Vec<String> {
        let list = get(&house, path);
        assert_eq!(
            list["schemas"][0],
            "urn:ietf:params:scim:api:messages:2.0:ListResponse"
        );
        let found = list["Resources"].as_array().unwrap();
        assert_eq!(list["itemsPerPage"], found.len());
        found
            .iter()
            .map(|user| user["userName"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("/Users"), ["alice", "c", "b", "d"]);
    assert_eq!(names("/Users?sortBy=userName"), ["alice", "b", "c", "d"]);
    assert_eq!(
        names("/Users?sortBy=emails&sortOrder=descending")[1..],
        ["c", "d", "b"]
    );
    assert_eq!(
        names("/Users?sortBy=userName&startIndex=2&count=2"),
        ["b", "c"]
    );
    assert_eq!(names("/Users?startIndex=3&count=1"), ["b"]);
    assert!(names("/Users?count=0").is_empty() && names("/Users?startIndex=99").is_empty());
    assert_eq!(get(&house, "/Users?count=0")["totalResults"], 4);
    assert_eq!(
        get(&house, "/Users?count=-1&startIndex=-5")["totalResults"],
        4
    );
    assert_eq!(names("/Users?filter=emails%20ew%20%22x.org%22"), ["c", "d"]);
    assert_eq!(names("/Users?filter=userName+eq+%22ALICE%22"), ["alice"]);
    assert_eq!(names("/Users?filter=userName+eq+%22a%20b%22"), [""; 0]);
    assert_eq!(
        names("/Users?filter=externalId+eq+%22ext-d%22+and+active+eq+true"),
        ["d"]
    );
    assert_eq!(
        names("/Users?filter=externalId+eq+%22ext-d%22+and+active+eq+false"),
        [""; 0]
    );
    let by_id = format!("/Users?filter=id+eq+%22{}%22", house.alice);
    assert_eq!(names(&by_id), ["alice"]);
    let group = new_group(&house, "staff", &[house.alice.as_str()]);
    let of_alice = format!(
        "/Groups?filter=members+eq+%22{}%22&attributes=displayName",
        house.alice
    );
    let found = get(&house, &of_alice)["Resources"].clone();
    assert_eq!(
        found,
        json!([{ "schemas": [GROUP], "id": group, "displayName": "staff" }])
    );
    let cut = get(
        &house,
        &format!("/Groups/{group}?excludedAttributes=members,meta.version"),
    );
    assert!(cut.get("members").is_none() && cut["meta"].get("version").is_none());
    assert!(cut["meta"].get("created").is_some());
    let parts = get(
        &house,
        &format!("/Groups/{group}?attributes=members.type,members.display"),
    );
    assert_eq!(
        parts["members"],
        json!([{ "type": "User", "display": "alice" }])
    );
    let search = json!({ "schemas": [SEARCH], "filter": "userName eq \"alice\" or displayName eq \"staff\"" });
    let found = done(&house, ScimMethod::Post, "/.search", search.clone());
    assert_eq!(found["totalResults"], 2);
    assert_eq!(
        refused(&house, ScimMethod::Post, "/Groups/.search", search).1,
        "invalidFilter"
    );
    for (query, kind) in [
        ("filter=nothing+pr", "invalidFilter"),
        ("filter=password+sw+%22a%22", "invalidFilter"),
        ("sortBy=nothing", "invalidPath"),
        ("sortOrder=up", "invalidValue"),
        ("count=many", "invalidValue"),
        (
            "attributes=userName&excludedAttributes=name",
            "invalidValue",
        ),
    ] {
        let answer = refused(
            &house,
            ScimMethod::Get,
            &format!("/Users?{query}"),
            Value::Null,
        );
        assert_eq!(answer, (400, kind.to_owned()), "{query}");
    }
}

#[test]
fn a_bulk_makes_what_refers_to_what_it_makes() {
    let house = House::new();
    let bulk = json!({ "schemas": [BULK], "Operations": [
        { "method": "POST", "path": "/Groups", "bulkId": "g", "data": {
            "schemas": [GROUP], "displayName": "Tour Guides",
            "members": [{ "value": "bulkId:u" }, { "value": house.alice }] } },
        { "method": "POST", "path": "/Users", "bulkId": "u", "data": { "schemas": [USER], "userName": "bob" } },
        { "method": "POST", "path": "/Users", "bulkId": "v", "data": { "schemas": [USER], "userName": "alice" } },
        { "method": "patch", "path": "/Groups/bulkId:g", "data": patch(json!([{ "op": "add", "path": "externalId", "value": "7" }])) },
        { "method": "DELETE", "path": "/Users/bulkId:v" },
        { "method": "PUT", "path": "/Users/usr_00000000000000000000000000", "data": { "schemas": [USER], "userName": "x" } },
    ]});
    let answers = done(&house, ScimMethod::Post, "/Bulk", bulk.clone());
    let answers = answers["Operations"].as_array().unwrap();
    let status: Vec<&str> = answers
        .iter()
        .map(|answer| answer["status"].as_str().unwrap())
        .collect();
    assert_eq!(
        status,
        ["201", "201", "409", "204", "409", "404"],
        "{answers:?}"
    );
    assert_eq!(answers[2]["response"]["scimType"], "uniqueness");
    let group = answers[0]["location"]
        .as_str()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(members(&house, &group).len(), 2);
    assert_eq!(get(&house, &format!("/Groups/{group}"))["externalId"], "7");
    // After so many failures the rest is left.
    let mut short = bulk.clone();
    short["failOnErrors"] = json!(1);
    let answers = done(&house, ScimMethod::Post, "/Bulk", short);
    assert_eq!(
        answers["Operations"].as_array().unwrap().len(),
        1,
        "{answers}"
    );
    let many: Vec<Value> = vec![json!({ "method": "DELETE", "path": "/Users/x" }); 101];
    let many = json!({ "schemas": [BULK], "Operations": many });
    assert_eq!(refused(&house, ScimMethod::Post, "/Bulk", many).0, 413);
    for operation in [
        json!({ "method": "GET", "path": "/Users" }),
        json!({ "method": "POST", "path": "/Users", "data": {} }),
        json!({ "method": "POST", "path": "/Bulk", "bulkId": "x", "data": {} }),
        json!({ "method": "POST", "path": "/Users/.search", "bulkId": "x", "data": {} }),
        json!({ "path": "/Users" }),
        json!("x"),
    ] {
        let body = json!({ "schemas": [BULK], "Operations": [operation] });
        assert_eq!(
            refused(&house, ScimMethod::Post, "/Bulk", body).0,
            400,
            "{operation}"
        );
    }
    let circle = json!({ "schemas": [BULK], "Operations": [
        { "method": "POST", "path": "/Groups", "bulkId": "1", "data": { "schemas": [GROUP], "displayName": "one", "members": [{ "value": "bulkId:2" }] } },
        { "method": "POST", "path": "/Groups", "bulkId": "2", "data": { "schemas": [GROUP], "displayName": "two", "members": [{ "value": "bulkId:1" }] } },
    ]});
    let answers = done(&house, ScimMethod::Post, "/Bulk", circle);
    assert_eq!(answers["Operations"][1]["status"], "409", "{answers}");
}

#[test]
fn what_the_interface_can_do_is_told() {
    let house = House::new();
    let config = get(&house, "/ServiceProviderConfig");
    assert_eq!(config["filter"]["maxResults"], 200);
    for (path, count) in [("/ResourceTypes", 2), ("/Schemas", 5)] {
        let list = get(&house, path);
        assert_eq!(list["totalResults"], count);
        for resource in list["Resources"].as_array().unwrap() {
            let at = format!("{path}/{}", resource["id"].as_str().unwrap());
            assert_eq!(get(&house, &at), *resource);
        }
        assert_eq!(
            refused(
                &house,
                ScimMethod::Get,
                &format!("{path}?filter=x"),
                Value::Null
            )
            .0,
            403
        );
        assert_eq!(
            refused(&house, ScimMethod::Get, &format!("{path}/x"), Value::Null).0,
            404
        );
    }
    for (method, path) in [
        (ScimMethod::Get, "/Nothing"),
        (ScimMethod::Get, "/Users/x/y"),
        (ScimMethod::Put, "/Users"),
        (ScimMethod::Post, "/Users/usr_00000000000000000000000000"),
        (ScimMethod::Get, "/Groups/staff"),
        (ScimMethod::Get, ""),
    ] {
        assert_eq!(refused(&house, method, path, Value::Null).0, 404, "{path}");
    }
    for body in [
        json!([]),
        json!({}),
        json!("x"),
        json!({ "schemas": [GROUP], "userName": "x" }),
    ] {
        let answer = refused(&house, ScimMethod::Post, "/Users", body);
        assert_eq!(answer, (400, "invalidSyntax".to_owned()));
    }
    for user in [
        json!({ "schemas": [USER] }),
        json!({ "schemas": [USER], "userName": "two words" }),
        json!({ "schemas": [USER], "userName": "" }),
        json!({ "schemas": [USER], "userName": "x".repeat(200) }),
        json!({ "schemas": [USER], "userName": "x", "displayName": "a\u{0}b" }),
        json!({ "schemas": [USER], "userName": "x", "displayName": "x".repeat(300) }),
        json!({ "schemas": [USER], "userName": "x", "emails": [{ "value": "nobody" }] }),
        json!({ "schemas": [USER], "userName": "x", "emails": [{ "value": "a@b", "primary": true }, { "value": "c@d", "primary": true }] }),
        json!({ "schemas": [USER], "userName": "x", "emails": vec![json!({ "value": "a@b" }); 17] }),
        json!({ "schemas": [USER], "userName": "x", "active": "perhaps" }),
        json!({ "schemas": [USER], "userName": "x", "name": "X" }),
    ] {
        let answer = refused(&house, ScimMethod::Post, "/Users", user.clone());
        assert_eq!(answer, (400, "invalidValue".to_owned()), "{user}");
    }
}
