//! Users, groups, roles, service accounts and clients.

use testudo_identity::{
    AdminError, ClientKind, ClientProfile, GroupProfile, NewPassword, NewSecret, PresentedToken,
    RoleProfile, ServiceAccountProfile, UserProfile,
};
use testudo_model::{
    GroupName, PolicyGroup, PolicyRole, Redacted, RoleName, TenantName, event::Outcome,
};

use crate::house::{House, PASSWORD, native_profile, web_profile};

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

fn role(name: &str) -> RoleName {
    name.parse().unwrap()
}

#[test]
fn names_are_unique_and_free_again_after_deletion() {
    let house = House::new();
    let (provider, caller) = (&house.provider, &house.caller);
    let alice = "alice".parse().unwrap();
    let again = provider
        .create_user(&alice, UserProfile::default(), None, caller)
        .unwrap_err();
    assert!(matches!(again, AdminError::Taken { .. }) && again.status() == 409);
    provider.delete_user(&house.alice, caller).unwrap();
    assert!(matches!(
        provider.user(&house.alice),
        Err(AdminError::NotFound { .. })
    ));
    let new = provider
        .create_user(&alice, UserProfile::default(), None, caller)
        .unwrap();
    assert_ne!(new.record.id, house.alice, "an id is never used again");
    assert!(house.try_login("alice", PASSWORD).is_err());
}

#[test]
fn clients_and_service_accounts_share_their_names() {
    let house = House::new();
    let secret = NewSecret::Generate;
    let taken = house.provider.create_client(
        &"restock".parse().unwrap(),
        web_profile(),
        &secret,
        &house.caller,
    );
    assert!(matches!(taken, Err(AdminError::Taken { .. })));
    let profile = ServiceAccountProfile::default();
    let taken = house.provider.create_service_account(
        &"web".parse().unwrap(),
        profile,
        &secret,
        &house.caller,
    );
    assert!(matches!(taken, Err(AdminError::Taken { .. })));
}

#[test]
fn a_change_decided_on_an_old_version_is_refused() {
    let house = House::new();
    let read = house.provider.user(&house.alice).unwrap();
    let profile = UserProfile {
        clearance: 10,
        ..UserProfile::default()
    };
    house
        .provider
        .update_user(&house.alice, read.version, profile.clone(), &house.caller)
        .unwrap();
    let stale = house
        .provider
        .update_user(&house.alice, read.version, profile, &house.caller)
        .unwrap_err();
    assert!(matches!(stale, AdminError::Stale { .. }) && stale.status() == 412);
    assert_eq!(
        house.provider.user(&house.alice).unwrap().record.clearance,
        10
    );
}

#[test]
fn a_login_does_not_get_in_the_way_of_an_administrator() {
    let house = House::new();
    let read = house.provider.user(&house.alice).unwrap();
    house.try_login("alice", PASSWORD).unwrap();
    let profile = UserProfile::default();
    assert!(
        house
            .provider
            .update_user(&house.alice, read.version, profile, &house.caller)
            .is_ok()
    );
}

#[test]
fn groups_and_roles_must_exist_and_stay_while_they_are_used() {
    let house = House::new();
    let (provider, caller) = (&house.provider, &house.caller);
    let read = provider.user(&house.alice).unwrap();
    let profile = UserProfile {
        groups: vec![group("staff")],
        roles: vec![role("clerk")],
        ..UserProfile::default()
    };
    let missing = provider.update_user(&house.alice, read.version, profile.clone(), caller);
    assert!(matches!(
        missing,
        Err(AdminError::NotFound { kind: "group", .. })
    ));
    provider
        .create_group(&group("staff"), GroupProfile::default(), caller)
        .unwrap();
    provider
        .create_role(&role("clerk"), RoleProfile::default(), caller)
        .unwrap();
    provider
        .update_user(&house.alice, read.version, profile, caller)
        .unwrap();
    let version = provider.group(&group("staff")).unwrap().version;
    let used = provider
        .delete_group(&group("staff"), version, false, caller)
        .unwrap_err();
    assert!(matches!(used, AdminError::InUse { users: 1, .. }));
    let version = provider.role(&role("clerk")).unwrap().version;
    let used = provider.delete_role(&role("clerk"), version, caller);
    assert!(matches!(used, Err(AdminError::InUse { .. })));
}

#[test]
fn groups_form_no_cycle() {
    let house = House::new();
    let (provider, caller) = (&house.provider, &house.caller);
    let inside = |parents: &[&str]| GroupProfile {
        parents: parents.iter().map(|name| group(name)).collect(),
        ..GroupProfile::default()
    };
    provider
        .create_group(&group("a"), inside(&[]), caller)
        .unwrap();
    provider
        .create_group(&group("b"), inside(&["a"]), caller)
        .unwrap();
    provider
        .create_group(&group("c"), inside(&["b"]), caller)
        .unwrap();
    let version = provider.group(&group("a")).unwrap().version;
    for parents in [["a"], ["c"]] {
        let cycle = provider.update_group(&group("a"), version, inside(&parents), caller);
        assert!(
            matches!(cycle, Err(AdminError::Invalid { .. })),
            "{parents:?}"
        );
    }
}

#[test]
fn the_directory_resolves_roles_of_groups_and_shows_no_stranger() {
    let house = House::new();
    let (provider, caller) = (&house.provider, &house.caller);
    provider
        .create_role(&role("reader"), RoleProfile::default(), caller)
        .unwrap();
    provider
        .create_role(&role("clerk"), RoleProfile::default(), caller)
        .unwrap();
    let everybody = GroupProfile {
        roles: vec![role("reader")],
        ..GroupProfile::default()
    };
    provider
        .create_group(&group("everybody"), everybody, caller)
        .unwrap();
    let staff = GroupProfile {
        parents: vec![group("everybody")],
        ..GroupProfile::default()
    };
    provider
        .create_group(&group("staff"), staff, caller)
        .unwrap();
    let version = provider.user(&house.alice).unwrap().version;
    let profile = UserProfile {
        clearance: 50,
        groups: vec![group("staff")],
        roles: vec![role("clerk")],
        ..UserProfile::default()
    };
    provider
        .update_user(&house.alice, version, profile, caller)
        .unwrap();
    let directory = provider.directory().unwrap();
    let alice = directory
        .subjects
        .iter()
        .find(|subject| subject.username == "alice")
        .unwrap();
    assert_eq!(alice.id, house.alice.as_str());
    let tenant = TenantName::default_tenant();
    let in_policies = |name: &str| PolicyGroup::of(&tenant, &group(name));
    let to_policies = |role: &RoleName| PolicyRole::of(&tenant, role);
    assert_eq!(alice.groups, [in_policies("staff")]);
    assert_eq!(
        alice.roles,
        [role("clerk"), role("reader")].map(|role| to_policies(&role))
    );
    assert_eq!(alice.clearance, 50);
    assert_eq!(
        directory.groups[&in_policies("staff")],
        [in_policies("everybody")]
    );
    for subject in &directory.subjects {
        let roles = provider.roles_of(&subject.id).unwrap();
        assert_eq!(
            roles.iter().map(to_policies).collect::<Vec<_>>(),
            subject.roles
        );
    }
    assert!(
        directory
            .subjects
            .iter()
            .any(|subject| subject.id.starts_with("sva_"))
    );
}

#[test]
fn who_is_disabled_or_unknown_has_no_roles() {
    let house = House::new();
    let (provider, caller) = (&house.provider, &house.caller);
    provider
        .create_role(&role("clerk"), RoleProfile::default(), caller)
        .unwrap();
    let version = provider.user(&house.alice).unwrap().version;
    let profile = UserProfile {
        roles: vec![role("clerk")],
        ..UserProfile::default()
    };
    provider
        .update_user(&house.alice, version, profile, caller)
        .unwrap();
    let alice = house.alice.as_str();
    assert_eq!(provider.roles_of(alice).unwrap(), [role("clerk")]);
    provider.disable_user(&house.alice, caller).unwrap();
    assert_eq!(provider.roles_of(alice).unwrap(), []);
    provider.enable_user(&house.alice, caller).unwrap();
    assert_eq!(provider.roles_of(alice).unwrap(), [role("clerk")]);
    for stranger in ["usr_nobody", "", "alice"] {
        assert_eq!(provider.roles_of(stranger).unwrap(), [], "{stranger}");
    }
}

#[test]
fn a_new_password_ends_all_sessions_and_the_old_one_is_worthless() {
    let house = House::new();
    let tokens = house.tokens();
    let generated = house
        .provider
        .set_password(&house.alice, &NewPassword::Generate, &house.caller)
        .unwrap();
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&tokens.access_token, None))
            .is_err()
    );
    assert!(house.try_login("alice", PASSWORD).is_err());
    assert!(
        house
            .try_login("alice", generated.unwrap().expose())
            .is_ok()
    );
}

#[test]
fn weak_passwords_and_secrets_are_refused() {
    let house = House::new();
    for bad in ["fourteen chars", &"x".repeat(2000)] {
        let password = NewPassword::Given(Redacted::new(bad.to_owned()));
        let refused = house
            .provider
            .set_password(&house.alice, &password, &house.caller);
        assert!(matches!(
            refused,
            Err(AdminError::Invalid {
                field: "password",
                ..
            })
        ));
    }
    let hash = NewPassword::Hash(Redacted::new("$2b$12$bcrypt".to_owned()));
    assert!(
        house
            .provider
            .set_password(&house.alice, &hash, &house.caller)
            .is_err()
    );
    let secret = NewSecret::Given(Redacted::new("hunter2".to_owned()));
    let name = "new".parse().unwrap();
    assert!(
        house
            .provider
            .create_client(&name, web_profile(), &secret, &house.caller)
            .is_err()
    );
}

#[test]
fn a_client_must_be_able_to_prove_what_its_kind_says() {
    let house = House::new();
    let name = "new".parse().unwrap();
    let create = |profile: ClientProfile, secret: NewSecret| {
        house
            .provider
            .create_client(&name, profile, &secret, &house.caller)
    };
    assert!(create(web_profile(), NewSecret::None).is_err());
    assert!(create(native_profile(), NewSecret::Generate).is_err());
    let homeless = ClientProfile {
        redirect_uris: vec![],
        ..native_profile()
    };
    assert!(create(homeless, NewSecret::None).is_err());
    let created = create(web_profile(), NewSecret::Generate).unwrap();
    assert_eq!(created.record.kind, ClientKind::Confidential);
    assert_eq!(created.generated.unwrap().expose().len(), 43);
}

#[test]
fn text_and_numbers_have_limits() {
    let house = House::new();
    let version = house.provider.user(&house.alice).unwrap().version;
    let base = UserProfile::default();
    for profile in [
        UserProfile {
            clearance: 101,
            ..base.clone()
        },
        UserProfile {
            clearance: -1,
            ..base.clone()
        },
        UserProfile {
            display_name: Some("x".repeat(257)),
            ..base.clone()
        },
        UserProfile {
            email: Some("a\r\nb".to_owned()),
            ..base.clone()
        },
        UserProfile {
            groups: vec![group("g"); 65],
            ..base.clone()
        },
    ] {
        let refused = house
            .provider
            .update_user(&house.alice, version, profile, &house.caller);
        assert!(matches!(refused, Err(AdminError::Invalid { .. })));
    }
}

#[test]
fn listing_goes_page_by_page_in_order_of_creation() {
    let house = House::new();
    for n in 0..5 {
        let name = format!("user{n}").parse().unwrap();
        house
            .provider
            .create_user(&name, UserProfile::default(), None, &house.caller)
            .unwrap();
    }
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let page = house.provider.users(after, 2).unwrap();
        assert!(page.items.len() <= 2);
        names.extend(
            page.items
                .iter()
                .map(|item| item.record.username.to_string()),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(
        names,
        ["alice", "user0", "user1", "user2", "user3", "user4"]
    );
}

#[test]
fn every_change_is_an_event_and_a_refused_one_is_not() {
    let house = House::new();
    let profile = UserProfile::default();
    let name = "bob".parse().unwrap();
    house
        .provider
        .create_user(&name, profile.clone(), None, &house.caller)
        .unwrap();
    assert!(
        house
            .provider
            .create_user(&name, profile, None, &house.caller)
            .is_err()
    );
    let created = house.events_named("user.create", Outcome::Success);
    let bobs = created
        .iter()
        .filter(|event| event.target.as_deref() == Some("bob"));
    assert_eq!(bobs.count(), 1);
}
