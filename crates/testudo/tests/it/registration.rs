//! Clients that register themselves, over HTTP: how that is turned on and off, and what people, administrators and
//! strangers see of it.

use std::fs;

use serde_json::{Value, json};

use crate::{
    browser::{Browser, authorize_path, code_form, flow_of, query_of, token},
    forge::get,
    shop::{Shop, password},
    wire::Answer,
};

const REGISTER: &str = "/oauth2/register";
const REDIRECT: &str = "https://wiki.apps.example/callback";

fn send(shop: &Shop, method: &str, path: &str, bearer: &str, body: &str) -> Answer {
    shop.ask_server(&format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn metadata() -> Value {
    json!({
        "client_name": "the testudo command line",
        "redirect_uris": [REDIRECT],
        "token_endpoint_auth_method": "none",
    })
}

/// Applies the fleet file with this behind it; what the command line said if it was refused.
fn apply(shop: &Shop, original: &str, further: &str) -> Result<(), String> {
    let folder = &shop.fleet.folder;
    fs::write(folder.fleet_file(), format!("{original}{further}")).unwrap();
    let output = folder.testudo(&["apply", "fleet.toml"]);
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
fn registration_is_off_until_the_fleet_file_says_what_may_be_asked_for() {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let original = fs::read_to_string(folder.fleet_file()).unwrap();
    let discovered = || {
        let document = shop.ask_server(&get("/.well-known/openid-configuration", ""));
        document.json()["registration_endpoint"].clone()
    };
    assert_eq!(discovered(), Value::Null);
    let off = send(&shop, "POST", REGISTER, "x", &metadata().to_string());
    assert_eq!(off.status, 404, "{off:?}");
    let refused = folder.testudo(&["registration-token", "create"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && said.contains("[registration]"),
        "{said}"
    );

    for (section, why) in [
        ("scopes = [\"testudo:admin\"]", "cannot administer"),
        ("grant_types = [\"client_credentials\"]", "service accounts"),
        ("auth_methods = []", "no client can be registered"),
        ("redirect_hosts = [\"*\"]", "not a host"),
        ("redirect_hosts = [\"a.*.example\"]", "not a host"),
    ] {
        let said = apply(&shop, &original, &format!("\n[registration]\n{section}\n")).unwrap_err();
        assert!(said.contains(why), "{section}: {said}");
    }
    assert_eq!(discovered(), Value::Null);

    let section =
        "\n[registration]\nredirect_hosts = [\"*.apps.example\"]\nclient_lifetime = \"90d\"\n";
    apply(&shop, &original, section).unwrap();
    let endpoint = discovered();
    assert!(endpoint.as_str().unwrap().ends_with(REGISTER), "{endpoint}");

    let initial = folder.run(&["registration-token", "create", "--label", "wiki"]);
    let listed = folder.run(&["registration-token", "list"]);
    let (id, secret) = initial.trim().split_once('.').unwrap();
    assert!(listed.contains(id) && listed.contains("wiki") && !listed.contains(secret));

    // Wrong before right: nothing of it uses the token up.
    let body = metadata().to_string();
    for (answer, status) in [
        (send(&shop, "POST", REGISTER, "", &body), 401),
        (send(&shop, "POST", REGISTER, id, &body), 401),
        (
            send(&shop, "POST", REGISTER, &shop.token("root"), &body),
            401,
        ),
        (send(&shop, "POST", REGISTER, initial.trim(), "[]"), 400),
        (
            send(&shop, "POST", REGISTER, initial.trim(), &" ".repeat(70_000)),
            400,
        ),
        (send(&shop, "GET", REGISTER, initial.trim(), ""), 405),
        (send(&shop, "PUT", REGISTER, initial.trim(), &body), 405),
    ] {
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let form = format!(
        "POST {REGISTER} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        initial.trim(),
        body.len()
    );
    assert_eq!(shop.ask_server(&form).status, 415);
    let made = send(&shop, "POST", REGISTER, initial.trim(), &body);
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let again = send(&shop, "POST", REGISTER, initial.trim(), &body);
    assert_eq!(again.status, 401, "it was for one");
    assert!(
        again
            .header("www-authenticate")
            .unwrap()
            .contains("invalid_token")
    );

    let made = made.json();
    let client = made["client_id"].as_str().unwrap();
    // It calls itself like one of ours; people see that it is none.
    let request = [("client_id", client), ("redirect_uri", REDIRECT)];
    let mut browser = Browser::new(&shop);
    let page = browser.get(&authorize_path(&request));
    assert!(
        page.body
            .contains("wiki.apps.example (the testudo command line)"),
        "{page:?}"
    );
    let flow = flow_of(&page);
    let login = [
        ("flow", &*flow),
        ("username", "alice"),
        ("password", &*password("alice")),
    ];
    let answer = browser.post("/login", &login);
    // To have logged in is no consent to what nobody knows.
    let asked = answer.header("location").unwrap();
    assert!(asked.starts_with("/consent?flow="), "{answer:?}");
    let page = browser.get(asked);
    assert!(
        page.body
            .contains("wiki.apps.example (the testudo command line)"),
        "{page:?}"
    );
    let flow = flow_of(&page);
    let allow = [("flow", &*flow), ("decision", "allow")];
    assert_eq!(
        Browser::new(&shop).post("/consent", &allow).status,
        400,
        "another browser"
    );
    let cross = browser.post_with("/consent", &allow, "Sec-Fetch-Site: cross-site\r\n");
    assert_eq!(cross.status, 403);
    let answer = browser.post("/consent", &allow);
    let query = query_of(answer.header("location").unwrap());
    let mut redemption = code_form(&query["code"]);
    redemption.retain(|(name, _)| !matches!(*name, "client_id" | "redirect_uri"));
    redemption.extend(request);
    assert_eq!(token(&shop, &redemption).status, 200);
    // The same is not asked for again; what is taken back is.
    let silent = authorize_path(&[request[0], request[1], ("prompt", "none")]);
    let answered = browser.get(&silent);
    assert!(query_of(answered.header("location").unwrap()).contains_key("code"));
    let page = browser.get("/account");
    assert!(page.body.contains("What applications may do"), "{page:?}");
    let flow = flow_of(&page);
    let revoke = [
        ("flow", &*flow),
        ("action", "revoke-consent"),
        ("client", client),
    ];
    assert_eq!(browser.post("/account", &revoke).status, 200);
    let answered = browser.get(&silent);
    let query = query_of(answered.header("location").unwrap());
    assert_eq!(query["error"], "consent_required");

    // The administrator sees it and ends it; turning registration off leaves what there is.
    apply(&shop, &original, "").unwrap();
    assert_eq!(discovered(), Value::Null);
    assert!(folder.run(&["client", "list"]).contains(client));
    let address = format!("{REGISTER}/{client}");
    let access = made["registration_access_token"].as_str().unwrap();
    assert_eq!(send(&shop, "GET", &address, access, "").status, 404);
    folder.run(&["client", "delete", client]);
    assert!(!folder.run(&["client", "list"]).contains(client));
    let page = browser.get(&authorize_path(&request));
    assert_eq!(page.status, 400, "{page:?}");
}
