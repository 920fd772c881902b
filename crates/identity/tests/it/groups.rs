//! Groups in groups, and who is in them.

use std::{collections::BTreeSet, thread};

use serde_json::{Value, json};
use testudo_identity::{
    AdminError, GroupProfile, MemberKind, NewPassword, NewSecret, PresentedToken, RoleProfile,
    Seed, SeedUser, ServiceAccountProfile, TokenResponse, UserProfile,
};
use testudo_model::{GroupName, Redacted, Username};

use crate::house::{House, PASSWORD, code_of, native_request};

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

fn inside(parents: &[&str]) -> GroupProfile {
    GroupProfile {
        parents: parents.iter().map(|name| group(name)).collect(),
        ..GroupProfile::default()
    }
}

fn make(house: &House, name: &str, parents: &[&str]) {
    house
        .provider
        .create_group(&group(name), inside(parents), &house.caller)
        .unwrap();
}

fn add(house: &House, to: &str, kind: MemberKind, name: &str) -> Result<bool, AdminError> {
    house
        .provider
        .add_member(&group(to), kind, name, &house.caller)
}

fn names(house: &House, of: &str, nested: bool) -> Vec<String> {
    let members = house.provider.members(&group(of), nested).unwrap();
    members
        .into_iter()
        .map(|member| format!("{} {} in {}", member.kind, member.name, member.via))
        .collect()
}

#[test]
fn members_come_and_go_and_are_told_of_once() {
    let house = House::new();
    make(&house, "staff", &[]);
    assert!(add(&house, "staff", MemberKind::User, "alice").unwrap());
    assert!(!add(&house, "staff", MemberKind::User, "alice").unwrap());
    assert!(add(&house, "staff", MemberKind::ServiceAccount, "restock").unwrap());
    assert_eq!(
        names(&house, "staff", false),
        ["service-account restock in staff", "user alice in staff"]
    );
    let take = |kind, name| {
        let provider = &house.provider;
        provider.remove_member(&group("staff"), kind, name, &house.caller)
    };
    assert!(take(MemberKind::User, "alice").unwrap());
    assert!(!take(MemberKind::User, "alice").unwrap());
    assert_eq!(names(&house, "staff", false).len(), 1);
    let told = |activity: &str| {
        let events = house.events();
        events
            .iter()
            .filter(|event| event.activity == activity)
            .count()
    };
    assert_eq!(
        (told("group.add_member"), told("group.remove_member")),
        (2, 1)
    );
    for (kind, name) in [
        (MemberKind::User, "nobody"),
        (MemberKind::User, "No Name"),
        (MemberKind::ServiceAccount, "nobody"),
        (MemberKind::Group, "nobody"),
    ] {
        let missing = add(&house, "staff", kind, name);
        assert!(
            matches!(missing, Err(AdminError::NotFound { .. })),
            "{name}"
        );
    }
    let missing = add(&house, "nowhere", MemberKind::User, "alice");
    assert!(matches!(
        missing,
        Err(AdminError::NotFound { kind: "group", .. })
    ));
}

#[test]
fn who_is_in_a_group_is_in_all_groups_around_it() {
    let house = House::new();
    let role = "reader".parse().unwrap();
    let provider = &house.provider;
    provider
        .create_role(&role, RoleProfile::default(), &house.caller)
        .unwrap();
    let profile = GroupProfile {
        roles: vec![role.clone()],
        ..GroupProfile::default()
    };
    provider
        .create_group(&group("everybody"), profile, &house.caller)
        .unwrap();
    make(&house, "staff", &["everybody"]);
    make(&house, "night-shift", &[]);
    assert!(add(&house, "staff", MemberKind::Group, "night-shift").unwrap());
    add(&house, "night-shift", MemberKind::User, "alice").unwrap();
    assert_eq!(
        names(&house, "everybody", true),
        [
            "group night-shift in staff",
            "group staff in everybody",
            "user alice in night-shift"
        ]
    );
    assert_eq!(
        names(&house, "everybody", false),
        ["group staff in everybody"]
    );
    let alice = provider.user(&house.alice).unwrap().record;
    let standing = provider.standing_of(&alice.roles, &alice.groups).unwrap();
    assert_eq!(
        standing.groups,
        [group("everybody"), group("night-shift"), group("staff")]
    );
    assert_eq!(standing.roles, [role]);
    assert_eq!(
        provider.roles_of(house.alice.as_str()).unwrap(),
        standing.roles
    );
}

#[test]
fn groups_nest_in_no_circle_and_only_so_deep() {
    let house = House::new();
    make(&house, "g0", &[]);
    for level in 1..=16 {
        make(&house, &format!("g{level}"), &[&format!("g{}", level - 1)]);
    }
    let deeper = house
        .provider
        .create_group(&group("g17"), inside(&["g16"]), &house.caller);
    assert!(matches!(deeper, Err(AdminError::Invalid { .. })));
    // From the outside as well.
    make(&house, "around", &[]);
    let deeper = add(&house, "around", MemberKind::Group, "g0");
    assert!(matches!(deeper, Err(AdminError::Invalid { .. })));
    for (to, name) in [("g16", "g0"), ("g9", "g3"), ("g5", "g5")] {
        let circle = add(&house, to, MemberKind::Group, name);
        assert!(
            matches!(circle, Err(AdminError::Invalid { .. })),
            "{to} {name}"
        );
    }
    assert!(
        !add(&house, "g3", MemberKind::Group, "g4").unwrap(),
        "it is"
    );
}

#[test]
fn two_changes_at_once_close_no_circle() {
    for round in 0..10 {
        let house = House::new();
        make(&house, "a", &[]);
        make(&house, "b", &[]);
        let other = house.another_provider(round);
        let results = thread::scope(|scope| {
            let one = scope.spawn(|| add(&house, "a", MemberKind::Group, "b").is_ok());
            let two = scope.spawn(|| {
                let kind = MemberKind::Group;
                other
                    .add_member(&group("b"), kind, "a", &house.caller)
                    .is_ok()
            });
            [one.join().unwrap(), two.join().unwrap()]
        });
        assert_eq!(
            results.iter().filter(|&&done| done).count(),
            1,
            "{results:?}"
        );
    }
}

#[test]
fn nobody_comes_back_with_a_later_group_of_the_same_name() {
    let house = House::new();
    let other = house.another_provider(7);
    for round in 0..10 {
        make(&house, "staff", &[]);
        let version = house.provider.group(&group("staff")).unwrap().version;
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ = house
                    .provider
                    .delete_group(&group("staff"), version, true, &house.caller);
            });
            scope.spawn(|| {
                let _ = other.add_member(&group("staff"), MemberKind::User, "alice", &house.caller);
            });
        });
        if let Ok(stored) = house.provider.group(&group("staff")) {
            // The member was faster: the deletion was decided on another state of the group.
            assert_eq!(names(&house, "staff", false), ["user alice in staff"]);
            house
                .provider
                .delete_group(&group("staff"), stored.version, true, &house.caller)
                .unwrap();
        }
        let alice = house.provider.user(&house.alice).unwrap().record;
        assert!(alice.groups.is_empty(), "round {round}");
        make(&house, "staff", &[]);
        assert!(names(&house, "staff", false).is_empty());
        let version = house.provider.group(&group("staff")).unwrap().version;
        house
            .provider
            .delete_group(&group("staff"), version, false, &house.caller)
            .unwrap();
    }
}

#[test]
fn the_version_of_a_group_says_who_is_in_it_whoever_changed_that() {
    let house = House::new();
    let provider = &house.provider;
    make(&house, "staff", &[]);
    let mut versions = BTreeSet::new();
    let mut differs = |what: &str| {
        let version = provider.group(&group("staff")).unwrap().version;
        assert!(versions.insert(version), "{what}");
    };
    differs("made");
    add(&house, "staff", MemberKind::User, "alice").unwrap();
    differs("a member");
    let user = provider.user(&house.alice).unwrap();
    let profile = UserProfile::default();
    provider
        .update_user(&house.alice, user.version, profile, &house.caller)
        .unwrap();
    differs("a profile without it");
    let bob: Username = "bob".parse().unwrap();
    let profile = UserProfile {
        groups: vec![group("staff")],
        ..UserProfile::default()
    };
    let made = provider
        .create_user(&bob, profile.clone(), None, &house.caller)
        .unwrap();
    differs("a new user");
    provider
        .delete_user(&made.record.id, &house.caller)
        .unwrap();
    differs("a user who is gone");
    let seed = Seed {
        users: vec![SeedUser {
            username: bob,
            profile,
            disabled: false,
            totp: None,
            password: NewPassword::Given(Redacted::new(PASSWORD.to_owned())),
        }],
        ..Seed::default()
    };
    provider.seed(&seed, &house.caller).unwrap();
    differs("the fleet file");
    let before = provider.group(&group("staff")).unwrap().version;
    provider.seed(&seed, &house.caller).unwrap();
    assert_eq!(provider.group(&group("staff")).unwrap().version, before);
    let name = "nightly".parse().unwrap();
    let profile = ServiceAccountProfile {
        groups: vec![group("staff")],
        ..ServiceAccountProfile::default()
    };
    provider
        .create_service_account(&name, profile, &NewSecret::Generate, &house.caller)
        .unwrap();
    differs("a machine");
}

#[test]
fn a_group_that_goes_lets_everybody_go() {
    let house = House::new();
    make(&house, "outer", &[]);
    make(&house, "staff", &["outer"]);
    make(&house, "inner", &["staff"]);
    add(&house, "staff", MemberKind::User, "alice").unwrap();
    add(&house, "staff", MemberKind::ServiceAccount, "restock").unwrap();
    let version = house.provider.group(&group("staff")).unwrap().version;
    let used = house
        .provider
        .delete_group(&group("staff"), version, false, &house.caller);
    assert!(matches!(used, Err(AdminError::InUse { .. })));
    house
        .provider
        .delete_group(&group("staff"), version, true, &house.caller)
        .unwrap();
    assert!(names(&house, "outer", true).is_empty());
    let inner = house.provider.group(&group("inner")).unwrap();
    assert!(inner.record.parents.is_empty());
}

#[test]
fn who_asks_is_told_what_the_user_is_in_now_and_nobody_else_is() {
    let house = House::new();
    make(&house, "outer", &[]);
    make(&house, "staff", &["outer"]);
    add(&house, "staff", MemberKind::User, "alice").unwrap();
    let asked = native_request(&[("scope", "openid offline_access groups roles")]);
    let tokens = house
        .redeem(&code_of(&house.login_through(&asked)))
        .unwrap();
    let id_token = |tokens: &TokenResponse| -> Value {
        house.claims(tokens.id_token.as_deref().unwrap(), "JWT")
    };
    let told = id_token(&tokens);
    assert_eq!(
        (&told["groups"], &told["roles"]),
        (&json!(["outer", "staff"]), &json!([]))
    );
    let presented = PresentedToken::bearer(&tokens.access_token, None);
    let info = house.provider.user_info(presented).unwrap();
    assert_eq!(
        info.memberships.groups,
        Some(vec![group("outer"), group("staff")])
    );
    let access: Value = house.claims(&tokens.access_token, "at+jwt");
    assert!(access.get("groups").is_none(), "proxies ask the directory");
    // The next refresh says what holds then.
    house
        .provider
        .remove_member(&group("staff"), MemberKind::User, "alice", &house.caller)
        .unwrap();
    let refreshed = house
        .refresh(tokens.refresh_token.as_deref().unwrap())
        .unwrap();
    assert_eq!(id_token(&refreshed)["groups"], json!([]));
    // Who does not ask is not told.
    let told = id_token(&house.tokens());
    assert!(told.get("groups").is_none() && told.get("roles").is_none());
}
