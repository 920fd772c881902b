//! A fleet is changed while it runs: `testudo apply`.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    fleet::{Fleet, Folder},
    roles::eventually,
};

const ORDER: &str = r#"{"book":"1"}"#;

/// Ends the calls also when the change panics, or the scope would wait for them for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Requests that run beside a change; how many, and what went wrong.
fn while_calls_run<T>(fleet: &Fleet, token: &str, change: impl FnOnce() -> T) -> T {
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let call_on = || {
        let mut failed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let wanted = [
                (200, fleet.try_call("GET", "/books/1", None, "")),
                (201, fleet.try_call("POST", "/orders", Some(token), ORDER)),
            ];
            for (status, answer) in wanted {
                calls.fetch_add(1, Ordering::Relaxed);
                match answer {
                    Some(answer) if answer.status == status => {}
                    other => failed.push(format!("{other:?}")),
                }
            }
        }
        failed
    };
    thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        let callers: Vec<_> = (0..2).map(|_| scope.spawn(call_on)).collect();
        thread::sleep(Duration::from_millis(300));
        let changed = change();
        let at_change = calls.load(Ordering::Relaxed);
        eventually("calls ran after the change", || {
            calls.load(Ordering::Relaxed) > at_change + 8
        });
        drop(stopping);
        let failed: Vec<String> = callers
            .into_iter()
            .flat_map(|caller| caller.join().unwrap())
            .collect();
        assert!(
            failed.is_empty(),
            "{} of {calls:?} calls failed: {:?}",
            failed.len(),
            failed.first()
        );
        changed
    })
}

fn snapshot(folder: &Folder) -> u64 {
    json(folder, &["status"])["snapshot"].as_u64().unwrap()
}

/// What a command says to programs.
fn json(folder: &Folder, arguments: &[&str]) -> Value {
    serde_json::from_str(&folder.run(&[arguments, &["--output", "json"]].concat())).unwrap()
}

#[test]
fn policies_limits_routes_and_users_change_while_calls_run() {
    let fleet = Folder::bookshop().up();
    let folder = &fleet.folder;
    let alice = fleet.token("alice");
    let bob = fleet.token("bob");
    assert_eq!(fleet.call("POST", "/orders", Some(&bob), ORDER).status, 403);
    let unknown = fleet.call("GET", "/shelves", None, "");
    assert_eq!(
        (unknown.status, unknown.header("content-type")),
        (404, Some("application/problem+json"))
    );

    let before = snapshot(folder);
    while_calls_run(&fleet, &alice, || {
        // A policy: staff may order.
        let policy = r#"
@id("staff-order")
@reason("since today")
permit (
  principal in Fleet::Group::"staff-readers",
  action == Fleet::Action::"write",
  resource
)
when { resource in [Fleet::Route::"orders:orders.create", Fleet::Route::"inventory:inventory.reserve"] };
"#;
        fs::write(folder.path().join("policies/staff.cedar"), policy).unwrap();
        let applied = folder.run(&["apply", "fleet.toml"]);
        assert!(
            applied.contains("policy file staff.cedar added"),
            "{applied}"
        );
        eventually("staff may order", || {
            fleet.call("POST", "/orders", Some(&bob), ORDER).status == 201
        });

        // A limit: fewer books are shown.
        folder.edit(r#"rate = "5/s", burst = 10"#, r#"rate = "1/m", burst = 1"#);
        // A route that was not there, and a user.
        folder.edit(
            "# Asks the inventory, on behalf of the user.",
            "[[services.catalog.routes]]\noperation = \"catalog.shelves\"\nmatch = \"GET /shelves\"\nuser = \"none\"\n",
        );
        folder.edit(
            "[users.bob]",
            "[users.dora]\ngroups = [\"customers\"]\npassword = { file = \"passwords/dora\" }\n\n[users.bob]",
        );
        fs::write(
            folder.path().join("passwords/dora"),
            "dora-is-new-here-today\n",
        )
        .unwrap();
        let applied = folder.run(&["apply", "fleet.toml"]);
        assert!(applied.contains("service catalog changed"), "{applied}");
    });
    eventually("the new route leads to the service", || {
        // The catalogue has no shelves either, but now it is the catalogue that says so.
        fleet
            .call("GET", "/shelves", None, "")
            .header("content-type")
            == Some("application/json")
    });
    let dora = fleet.token("dora");
    assert_eq!(
        fleet.call("POST", "/orders", Some(&dora), ORDER).status,
        201
    );
    let shown: Vec<u16> = (0..3)
        .map(|_| fleet.call("GET", "/books", None, "").status)
        .collect();
    assert_eq!(shown.last(), Some(&429), "{shown:?}");
    assert!(snapshot(folder) >= before + 2);
    let again = folder.run(&["apply", "fleet.toml"]);
    assert_eq!(again.trim(), "nothing changes");

    // What was added is taken away again.
    fs::remove_file(folder.path().join("policies/staff.cedar")).unwrap();
    folder.run(&["apply", "fleet.toml"]);
    eventually("staff may not order", || {
        fleet.call("POST", "/orders", Some(&bob), ORDER).status == 403
    });
    let events = folder.run(&["audit", "search", "activity=fleet.apply"]);
    assert!(events.lines().count() >= 3, "{events}");
}

#[test]
fn a_broken_fleet_changes_nothing_and_says_file_line_and_why() {
    let fleet = Folder::bookshop().up();
    let folder = &fleet.folder;
    let alice = fleet.token("alice");
    let before = snapshot(folder);
    let file = fs::read_to_string(folder.fleet_file()).unwrap();
    let line_of =
        |text: &str, what: &str| text.lines().position(|line| line.contains(what)).unwrap() + 1;

    // A word that is none, with a guess what was meant.
    let broken = file.replacen("exposure = \"external\"", "exposur = \"external\"", 1);
    let place = format!("fleet.toml:{}:", line_of(&broken, "exposur ="));
    fs::write(folder.fleet_file(), &broken).unwrap();
    while_calls_run(&fleet, &alice, || {
        let errors = refused(folder, &["apply", "fleet.toml"]);
        assert!(
            errors.contains(&place) && errors.contains("exposure"),
            "{errors}"
        );
    });
    // A file that is no TOML.
    fs::write(folder.fleet_file(), format!("{file}\n[users.eve\n")).unwrap();
    let errors = refused(folder, &["apply", "fleet.toml"]);
    assert!(
        errors.contains(&format!("fleet.toml:{}:", file.lines().count() + 2)),
        "{errors}"
    );
    fs::write(folder.fleet_file(), &file).unwrap();

    // A policy with a route that does not exist, and one that does not parse.
    let policies = folder.path().join("policies");
    let unknown = "permit (\n  principal,\n  action,\n  resource == Fleet::Rout::\"orders:orders.list\"\n);\n";
    fs::write(policies.join("new.cedar"), unknown).unwrap();
    let errors = refused(folder, &["apply", "fleet.toml"]);
    assert!(errors.contains("new.cedar:4"), "{errors}");
    assert!(
        errors.contains("4 |   resource == Fleet::Rout::"),
        "{errors}"
    );
    fs::write(policies.join("new.cedar"), "permit (principal, action\n").unwrap();
    let errors = refused(folder, &["apply", "fleet.toml"]);
    assert!(errors.contains("new.cedar:"), "{errors}");
    let errors = refused(folder, &["apply", "fleet.toml", "--dry-run"]);
    assert!(errors.contains("new.cedar:"), "{errors}");
    fs::remove_file(policies.join("new.cedar")).unwrap();

    // Another fleet's file.
    fs::write(
        folder.fleet_file(),
        file.replace("bookshop.example\"", "other.example\""),
    )
    .unwrap();
    let errors = refused(folder, &["apply", "fleet.toml"]);
    assert!(errors.contains("trust domain"), "{errors}");
    fs::write(folder.fleet_file(), &file).unwrap();

    // What only a start reads is not said to be in force.
    let renamed = file.replace("\"shop.bookshop.example\"]", "\"books.bookshop.example\"]");
    assert_ne!(renamed, file);
    fs::write(folder.fleet_file(), renamed).unwrap();
    let waiting = folder.run(&["apply", "fleet.toml", "--dry-run"]);
    assert!(
        waiting
            .contains("read at a start only, and the process started with another: public_names"),
        "{waiting}"
    );
    fs::write(folder.fleet_file(), &file).unwrap();

    assert_eq!(snapshot(folder), before);
    assert_eq!(
        folder.run(&["apply", "fleet.toml"]).trim(),
        "nothing changes"
    );
    assert_eq!(
        fleet.call("POST", "/orders", Some(&alice), ORDER).status,
        201
    );
}

/// What a command says that finds something wrong with the files.
fn refused(folder: &Folder, arguments: &[&str]) -> String {
    let output = folder.testudo(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{errors}");
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    errors
}

#[test]
fn a_dry_run_tells_and_does_not_change() {
    let fleet = Folder::bookshop().up();
    let folder = &fleet.folder;
    let before = snapshot(folder);
    folder.edit("sensitivity = 30", "sensitivity = 40");
    let told = folder.run(&["apply", "fleet.toml", "--dry-run"]);
    assert!(
        told.contains("this would change") && told.contains("service orders changed"),
        "{told}"
    );
    assert_eq!(snapshot(folder), before);
    let done = folder.run(&["apply", "fleet.toml"]);
    assert!(done.contains("is in force"), "{done}");
    assert_eq!(snapshot(folder), before + 1);
}

#[test]
fn who_is_disabled_is_out_at_the_gateway_within_a_second() {
    let fleet = Folder::bookshop().up();
    let folder = &fleet.folder;
    let alice = fleet.token("alice");
    assert_eq!(fleet.call("GET", "/orders", Some(&alice), "").status, 200);
    folder.run(&["user", "disable", "alice"]);
    within_a_second("a disabled user is refused", || {
        fleet.call("GET", "/orders", Some(&alice), "").status != 200
    });
    folder.run(&["user", "enable", "alice"]);
    // Enabled again: with a new login, not with the tokens of before.
    assert_ne!(fleet.call("GET", "/orders", Some(&alice), "").status, 200);
    // Times in tokens are whole seconds: one of the same second as the revocation counts as older.
    thread::sleep(Duration::from_secs(1));
    let alice = fleet.token("alice");
    eventually("an enabled user is let in", || {
        fleet.call("GET", "/orders", Some(&alice), "").status == 200
    });

    // One session ends; another one of the same user goes on, until its `sid` is taken back.
    let other = fleet.token_with_scope("alice", "openid profile");
    let sessions: Value = json(folder, &["session", "list", "alice"]);
    let first = sessions[0]["id"].as_str().unwrap();
    folder.run(&["session", "revoke", first]);
    within_a_second("a revoked session is refused", || {
        fleet.call("GET", "/orders", Some(&alice), "").status == 401
    });
    assert_eq!(fleet.call("GET", "/orders", Some(&other), "").status, 200);
    folder.run(&["session", "revoke", &session_of(&other)]);
    within_a_second("so is the other one", || {
        fleet.call("GET", "/orders", Some(&other), "").status == 401
    });

    // An identity of a workload: the catalogue's sidecar is out, its certificate notwithstanding.
    let alice = fleet.token_with_scope("alice", "openid");
    assert_eq!(fleet.call("GET", "/books/1", None, "").status, 200);
    let proxies = json(folder, &["proxy", "list"]);
    let ids = proxies
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|proxy| proxy["spiffe_id"].as_str());
    let catalog = ids.into_iter().find(|id| id.ends_with("/catalog")).unwrap();
    folder.run(&["proxy", "revoke", catalog]);
    within_a_second("a revoked sidecar gets no calls", || {
        fleet.call("GET", "/books/1", None, "").status != 200
    });
    assert_eq!(
        fleet.call("GET", "/orders", Some(&alice), "").status,
        200,
        "the others go on"
    );
    let events = folder.run(&["audit", "search", "revoke"]);
    assert!(!events.is_empty());
}

fn within_a_second(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        if condition() {
            return;
        }
        assert!(Instant::now() < until, "not within a second: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The session an access token belongs to.
fn session_of(token: &str) -> String {
    let claims = testudo_trust::base64url::decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["sid"].as_str().unwrap().to_owned()
}

#[test]
fn keys_rotate_while_calls_run() {
    let fleet = Folder::bookshop().up();
    let folder = &fleet.folder;
    let alice = fleet.token("alice");
    while_calls_run(&fleet, &alice, || {
        for term in 2..=3 {
            let said = folder.run(&["key", "rotate"]);
            assert!(said.contains(&format!("term {term} is in force")), "{said}");
        }
        fleet.token_with_scope("bob", "openid");
    });
    folder.run(&["audit", "verify"]);

    // A new root is in the CA file before it signs anything, and nobody has to restart for it.
    let roots = || {
        fs::read_to_string(fleet.ready["ca"].as_str().unwrap())
            .unwrap()
            .matches("BEGIN")
            .count()
    };
    assert_eq!(roots(), 1);
    while_calls_run(&fleet, &alice, || folder.run(&["key", "rotate-ca"]));
    eventually("the new root is published", || roots() == 2);
    let again = folder.testudo(&["key", "rotate-ca"]);
    assert_eq!(
        again.status.code(),
        Some(5),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    assert_eq!(
        fleet.call("POST", "/orders", Some(&alice), ORDER).status,
        201
    );

    // After a restart everything opens under the new term.
    let Fleet {
        mut process,
        folder,
        ..
    } = fleet;
    assert_eq!(process.stop(), Some(0));
    let fleet = folder.up();
    assert_eq!(
        fleet.call("POST", "/orders", Some(&alice), ORDER).status,
        201
    );
    fleet.folder.run(&["audit", "verify"]);
}
