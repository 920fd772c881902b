//! Tenants: an issuer, people and cookies of their own; nothing of the fleet or of each other.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    browser::{Browser, authorize_path, form_request},
    shop::{Shop, claims_of, password},
    wire::Answer,
};

const TO_EVERYBODY: &str = "upstream = \"{shop}\"";

/// A shop for the users of every tenant, with `acme` and `globex`, an Anna in each, and a policy for the clerks of ACME.
fn with_tenants() -> Shop {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let upstream = TO_EVERYBODY.replace("{shop}", &shop.upstream.address.to_string());
    folder.edit(&upstream, &format!("{upstream}\ntenants = [\"*\"]"));
    folder.edit(
        "[groups]",
        "[tenants.acme]\nname = \"ACME Corporation\"\n\n[groups]",
    );
    let policies = folder.path().join("policies/shop.cedar");
    let text = fs::read_to_string(&policies).unwrap();
    let clerks = r#"
@id("acme-clerks-read-orders")
@reason("ACME's clerks look at orders")
permit (
  principal in Fleet::Group::"acme/clerks",
  action == Fleet::Action::"read",
  resource == Fleet::Route::"shop:orders.show"
);
"#;
    // Policies of a group that is not there yet are refused.
    folder.run(&["apply", "fleet.toml"]);
    folder.run(&["tenant", "create", "globex"]);
    for tenant in ["acme", "globex"] {
        folder.run(&["--tenant", tenant, "group", "create", "clerks"]);
        create(&shop, tenant, "anna", &["--group", "clerks"]);
    }
    fs::write(policies, text + clerks).unwrap();
    folder.run(&["apply", "fleet.toml"]);
    shop
}

fn create(shop: &Shop, tenant: &str, username: &str, more: &[&str]) {
    let folder = &shop.fleet.folder;
    let file = folder.path().join("passwords").join(username);
    fs::write(&file, password(username)).unwrap();
    let arguments = [&["--tenant", tenant, "user", "create", username], more].concat();
    let made = folder
        .command(&arguments)
        .stdin(fs::File::open(file).unwrap())
        .output();
    let made = made.unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

/// Logs in through the command line and returns an access token.
fn token(shop: &Shop, tenant: &str, username: &str, scope: &str) -> String {
    let folder = &shop.fleet.folder;
    let home = folder
        .path()
        .join(format!("home-{tenant}-{username}-{}", scope.len()));
    fs::create_dir_all(&home).unwrap();
    fs::copy(
        folder.path().join("home/fleet.json"),
        home.join("fleet.json"),
    )
    .unwrap();
    let password = fs::File::open(folder.path().join("passwords").join(username)).unwrap();
    let login = [
        "--tenant",
        tenant,
        "login",
        "--username",
        username,
        "--scope",
        scope,
    ];
    let login = folder
        .command(&login)
        .env("TESTUDO_HOME", &home)
        .stdin(password)
        .output()
        .unwrap();
    assert!(
        login.status.success(),
        "{}",
        String::from_utf8_lossy(&login.stderr)
    );
    let token = folder
        .command(&["--tenant", tenant, "token"])
        .env("TESTUDO_HOME", &home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(token.stdout).unwrap().trim().to_owned()
}

fn orders(shop: &Shop, token: &str) -> Answer {
    shop.fleet.call("GET", "/api/orders/1", Some(token), "")
}

/// Waits until a call with `token` is answered with `status`; what is in force reaches proxies within a second.
fn becomes(shop: &Shop, token: &str, status: u16) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = orders(shop, token);
        if answer.status == status {
            return;
        }
        assert!(Instant::now() < until, "{answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn get(shop: &Shop, path: &str, token: &str) -> Answer {
    shop.ask_server(&format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    ))
}

#[test]
fn people_of_a_tenant_log_in_at_its_issuer_and_are_told_apart_by_policies() {
    let shop = with_tenants();
    let issuer = format!(
        "{}/tenants/acme",
        shop.fleet.ready["server"].as_str().unwrap()
    );
    for path in [
        "/tenants/acme/.well-known/openid-configuration",
        "/tenants/acme/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/tenants/acme",
    ] {
        let document = get(&shop, path, "").json();
        assert_eq!(document["issuer"], *issuer, "{path}");
        assert_eq!(document["token_endpoint"], format!("{issuer}/oauth2/token"));
    }
    let [acme, globex] = ["acme", "globex"].map(|tenant| token(&shop, tenant, "anna", "openid"));
    assert_eq!(claims_of(&acme)["iss"], *issuer);
    assert_ne!(claims_of(&acme)["sub"], claims_of(&globex)["sub"]);
    becomes(&shop, &acme, 200);
    let denied = orders(&shop, &globex);
    assert_eq!(denied.status, 403, "{denied:?}");
    let seen = shop.upstream.take();
    let groups = seen.last().unwrap().only("x-user-groups");
    assert_eq!(groups.as_deref(), Some("acme/clerks"));

    // Taken back in a tenant, refused everywhere.
    let sessions: Value = serde_json::from_str(
        &shop
            .fleet
            .folder
            .run(&["--tenant", "acme", "-o", "json", "session", "list", "anna"]),
    )
    .unwrap();
    let session = sessions[0]["id"].as_str().unwrap();
    shop.fleet
        .folder
        .run(&["--tenant", "acme", "session", "revoke", session]);
    becomes(&shop, &acme, 401);

    // A service that is not for them.
    let folder = &shop.fleet.folder;
    let acme = token(&shop, "acme", "anna", "openid");
    becomes(&shop, &acme, 200);
    folder.edit("tenants = [\"*\"]", "tenants = [\"default\", \"globex\"]");
    folder.run(&["apply", "fleet.toml"]);
    becomes(&shop, &acme, 403);
    let explained = folder.run(&[
        "policy",
        "explain",
        orders(&shop, &acme).json()["decision"].as_str().unwrap(),
    ]);
    assert!(
        explained.contains("guardrail.tenant_isolation"),
        "{explained}"
    );
    folder.edit(
        "tenants = [\"default\", \"globex\"]",
        "tenants = [\"default\", \"acme\"]",
    );
    folder.run(&["apply", "fleet.toml"]);
    becomes(&shop, &acme, 200);

    // Nobody of a tenant that is disabled gets anywhere, and it is as it was when it is enabled again.
    folder.run(&["tenant", "disable", "acme"]);
    becomes(&shop, &acme, 401);
    assert_eq!(get(&shop, "/tenants/acme/oauth2/jwks", "").status, 404);
    folder.run(&["tenant", "enable", "acme"]);
    becomes(&shop, &acme, 200);
}

#[test]
fn a_tenants_administrator_administers_that_tenant_and_nothing_else() {
    let shop = with_tenants();
    for tenant in ["acme", "globex"] {
        create(&shop, tenant, "boss", &["--role", "testudo-admin"]);
    }
    let scope = "openid testudo:admin";
    let boss = token(&shop, "acme", "boss", scope);
    let anna = token(&shop, "acme", "anna", scope);
    let root = shop.fleet.token_with_scope("root", scope);
    let users = |tenant: &str| format!("{tenant}/api/v1/users");
    let listed = get(&shop, &users("/tenants/acme"), &boss).json();
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().collect();
    let names: Vec<_> = names
        .iter()
        .map(|user| user["username"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["anna", "boss"]);
    for (path, token, status) in [
        (users("/tenants/acme"), &anna, 403),
        // The fleet's administrator is theirs too, and the other way round nobody.
        (users("/tenants/acme"), &root, 200),
        (users("/tenants/globex"), &boss, 401),
        (users(""), &boss, 401),
        (users("/tenants/default"), &root, 404),
        (users("/tenants/nobody"), &root, 404),
        (users("/tenants/acme/tenants/globex"), &root, 404),
        (users("/tenants/../tenants/acme"), &root, 404),
        // What is the fleet's is at the fleet.
        ("/tenants/acme/api/v1/audit/events".to_owned(), &root, 404),
        ("/tenants/acme/api/v1/tenants".to_owned(), &root, 404),
        ("/tenants/acme/api/v1/status".to_owned(), &boss, 404),
        ("/api/v1/tenants".to_owned(), &boss, 401),
        // A token tells its holder's own provider about them, and no other.
        ("/tenants/acme/oauth2/userinfo".to_owned(), &boss, 200),
        ("/tenants/globex/oauth2/userinfo".to_owned(), &boss, 401),
        ("/oauth2/userinfo".to_owned(), &boss, 401),
        ("/tenants/acme/oauth2/userinfo".to_owned(), &root, 401),
    ] {
        let answer = get(&shop, &path, token);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    // The story of a token is its own tenant's.
    let told = claims_of(&anna)["jti"].as_str().unwrap().to_owned();
    let story = |tenant: &str| format!("{tenant}/api/v1/tokens/{told}");
    for (path, token, status) in [
        (story("/tenants/acme"), &boss, 200),
        (story("/tenants/acme"), &root, 200),
        (story("/tenants/globex"), &root, 404),
        (story(""), &root, 404),
    ] {
        assert_eq!(get(&shop, &path, token).status, status, "{path}");
    }
    // Applications and accounts are made there too, and get tokens there alone.
    let folder = &shop.fleet.folder;
    let made = [
        "-o",
        "json",
        "--tenant",
        "acme",
        "service-account",
        "create",
        "nightly",
    ];
    let made: Value = serde_json::from_str(&folder.run(&made)).unwrap();
    let secret = made["secret"].as_str().unwrap();
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "nightly"),
        ("client_secret", secret),
    ];
    for (tenant, status) in [("/tenants/acme", 200), ("/tenants/globex", 401), ("", 401)] {
        let answer = shop.ask_server(&form_request(&format!("{tenant}/oauth2/token"), &form, ""));
        assert_eq!(answer.status, status, "{tenant}: {answer:?}");
    }
    // Whoever has a role of the same name elsewhere has no role here.
    folder.run(&["--tenant", "acme", "role", "create", "shop-admin"]);
    create(&shop, "acme", "mallory", &["--role", "shop-admin"]);
    let mallory = token(&shop, "acme", "mallory", "openid");
    std::thread::sleep(Duration::from_millis(1_500));
    let denied = shop.fleet.call("GET", "/admin/x", Some(&mallory), "");
    assert_eq!(denied.status, 403, "{denied:?}");
    for (name, code) in [("default", 1), ("acme", 5)] {
        let refused = folder.testudo(&["tenant", "create", name]);
        assert_eq!(refused.status.code(), Some(code), "{refused:?}");
    }
    let events = folder.run(&["-o", "json", "audit", "search", "activity=tenant.create"]);
    assert!(
        events.contains("\"target\":\"acme\"") || events.contains("\"target\": \"acme\""),
        "{events}"
    );
}

#[test]
fn a_browser_is_logged_in_at_one_tenant_and_no_other() {
    let shop = with_tenants();
    let mut browser = Browser::new(&shop);
    let path = authorize_path(&[
        ("client_id", "cli"),
        ("redirect_uri", "http://127.0.0.1:1/callback"),
    ]);
    let page = browser.get(&format!("/tenants/acme{path}"));
    assert_eq!(page.status, 200, "{page:?}");
    let text = &page.body;
    assert!(
        text.contains("ACME Corporation") && text.contains("action=\"/tenants/acme/login\""),
        "{text}"
    );
    let stylesheet = text
        .split("href=\"")
        .find(|part| part.contains(".css"))
        .unwrap();
    let stylesheet = stylesheet.split('"').next().unwrap();
    assert_eq!(browser.get(stylesheet).status, 200, "{stylesheet}");
    let form = [
        ("flow", &*crate::browser::flow_of(&page)),
        ("username", "anna"),
        ("password", &password("anna")),
    ];
    // The form of one tenant is none of another.
    for elsewhere in ["/login", "/tenants/globex/login"] {
        let refused = browser.post(elsewhere, &form);
        assert!(
            matches!(refused.status, 400 | 403),
            "{elsewhere}: {refused:?}"
        );
    }
    let logged_in = browser.post("/tenants/acme/login", &form);
    assert_eq!(logged_in.status, 303, "{logged_in:?}");
    assert!(
        browser.cookies.contains_key("__Host-testudo-session-acme"),
        "{:?}",
        browser.cookies
    );
    assert!(
        !browser.cookies.contains_key("__Host-testudo-session"),
        "{:?}",
        browser.cookies
    );
    let is_logged_in = |browser: &mut Browser, tenant: &str| {
        let page = browser.get(&format!("{tenant}/account"));
        assert_eq!(page.status, 200, "{page:?}");
        !page.body.contains("name=\"password\"")
    };
    assert!(is_logged_in(&mut browser, "/tenants/acme"));
    assert!(!is_logged_in(&mut browser, "/tenants/globex"));
    assert!(!is_logged_in(&mut browser, ""));
    // A session of one tenant under the name of another's cookie is none there.
    let stolen = browser.cookies["__Host-testudo-session-acme"].clone();
    for name in ["__Host-testudo-session-globex", "__Host-testudo-session"] {
        browser.cookies.insert(name.to_owned(), stolen.clone());
    }
    assert!(!is_logged_in(&mut browser, "/tenants/globex"));
    assert!(!is_logged_in(&mut browser, ""));
    assert!(is_logged_in(&mut browser, "/tenants/acme"));
}
