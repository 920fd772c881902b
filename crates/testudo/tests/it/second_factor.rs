//! The account page and the second factor, in a browser by hand, with codes of somebody else's authenticator: oathtool.
//! `./test.sh` installs it; `TESTUDO_TEST_FAST=1` leaves this out.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::{
    browser::{Browser, CLIENT, authorize_path, code_form, flow_of, query_of, token},
    installed::left_out,
    roles::eventually,
    shop::{Shop, claims_of, password},
    wire::Answer,
};

const SESSION: &str = "__Host-testudo-session";

/// The code of `key` so many steps from now.
fn oathtool(key: &str, step: i32) -> String {
    let now = format!("now {} seconds", step * 30);
    let output = Command::new("oathtool")
        .args(["--totp", "--base32", "--now", &now, key])
        .output()
        .expect("oathtool: run ./test.sh, which installs it, or set TESTUDO_TEST_FAST=1");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn account(browser: &mut Browser<'_>, fields: &[(&str, &str)]) -> Answer {
    let page = browser.get("/account");
    let flow = flow_of(&page);
    let form = [&[("flow", &*flow)], fields].concat();
    browser.post("/account", &form)
}

/// Sends the login form; the answer.
fn log_in(browser: &mut Browser<'_>, changes: &[(&str, &str)]) -> Answer {
    let page = browser.get(&authorize_path(changes));
    let flow = flow_of(&page);
    let form = [
        ("flow", &*flow),
        ("username", "alice"),
        ("password", &*password("alice")),
    ];
    browser.post("/login", &form)
}

/// Runs a command that must fail, with `password` as its input; what it says.
fn with_password(mut command: Command, password: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(password.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_user_adds_an_authenticator_and_needs_it_from_then_on() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let key = add_authenticator(&mut Browser::new(&shop));

    // From now on the password is half of it. The code that added the authenticator is used up, the next one is good.
    let mut browser = Browser::new(&shop);
    let page = log_in(&mut browser, &[("acr_values", "2")]);
    assert_eq!(page.status, 200, "{page:?}");
    assert!(!browser.cookies.contains_key(SESSION), "half a login");
    let flow = flow_of(&page);
    let send = |browser: &mut Browser<'_>, code: &str| {
        browser.post("/login/code", &[("flow", &*flow), ("code", code)])
    };
    assert_eq!(send(&mut browser, "000000").status, 401);
    assert_eq!(
        send(&mut Browser::new(&shop), &oathtool(&key, 1)).status,
        403
    );
    let cross = "Sec-Fetch-Site: cross-site\r\n";
    let form = [("flow", &*flow), ("code", "000000")];
    assert_eq!(browser.post_with("/login/code", &form, cross).status, 403);
    let answer = send(&mut browser, &oathtool(&key, 1));
    assert_eq!(answer.status, 303, "{answer:?}");
    let code = query_of(answer.header("location").unwrap())["code"].clone();
    let tokens = token(&shop, &code_form(&code)).json();
    let claims = claims_of(tokens["access_token"].as_str().unwrap());
    assert_eq!(
        (&claims["acr"], &claims["client_id"]),
        (&"2".into(), &CLIENT.into())
    );
    assert_eq!(claims["amr"], serde_json::json!(["pwd", "otp", "mfa"]));

    // The command line does not pretend that the password was wrong.
    let login = shop.fleet.folder.command(&["login", "--username", "alice"]);
    let errors = with_password(login, &password("alice"));
    assert!(errors.contains("needs a second factor"), "{errors}");

    // An administrator helps when everything is lost.
    shop.fleet
        .folder
        .run(&["user", "reset-second-factor", "alice"]);
    assert_eq!(log_in(&mut Browser::new(&shop), &[]).status, 303);
    let unmet = log_in(&mut Browser::new(&shop), &[("acr_values", "2")]);
    let answer = query_of(unmet.header("location").unwrap());
    assert_eq!(answer["error"], "unmet_authentication_requirements");
}

/// Alice adds an authenticator on her account page; its key. A code of now is used up.
fn add_authenticator(browser: &mut Browser<'_>) -> String {
    // The account asks for a login, which leads back to it.
    let page = browser.get("/account");
    let form = [
        ("flow", &*flow_of(&page)),
        ("username", "alice"),
        ("password", &*password("alice")),
    ];
    let answer = browser.post("/login", &form);
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, Some("/account"))
    );
    let page = account(browser, &[("action", "begin-totp")]);
    let (_, rest) = page.body.split_once("id=\"secret\">").unwrap();
    let key = rest.split('<').next().unwrap().to_owned();
    let add = [
        ("flow", &*flow_of(&page)),
        ("action", "confirm-totp"),
        ("code", &*oathtool(&key, 0)),
    ];
    let codes = browser.post("/account", &add);
    assert_eq!(codes.status, 200, "{codes:?}");
    assert_eq!(codes.body.matches("<li><code>").count(), 10, "{codes:?}");
    assert!(
        !browser.get("/account").body.contains(&key),
        "it is not shown again"
    );
    key
}

#[test]
fn where_a_login_is_too_weak_the_gateway_says_which_would_do_and_takes_it() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let route = "match = \"GET /api/orders/{id}\"";
    let folder = &shop.fleet.folder;
    folder.edit(route, &format!("{route}\nstep_up = true"));
    folder.run(&["apply", "fleet.toml"]);
    let weak = shop.token("alice");
    let order = |token: &str| shop.fleet.call("GET", "/api/orders/1", Some(token), "");
    eventually("the gateway enforces it", || order(&weak).status == 401);
    let refused = order(&weak);
    assert_eq!(
        refused.header("www-authenticate"),
        Some(
            "Bearer error=\"insufficient_user_authentication\", \
             error_description=\"log in with a second factor\", acr_values=\"2\""
        )
    );
    assert_eq!(refused.json()["code"], "policy.step_up");
    assert!(refused.header("testudo-decision").is_some(), "{refused:?}");
    let nobodys = order(&shop.token("audrey"));
    assert_eq!(
        nobodys.status, 403,
        "no login of hers would do: {nobodys:?}"
    );
    assert_eq!(nobodys.header("www-authenticate"), None);

    let key = add_authenticator(&mut Browser::new(&shop));
    let mut browser = Browser::new(&shop);
    let page = log_in(&mut browser, &[("acr_values", "2")]);
    let form = [("flow", &*flow_of(&page)), ("code", &*oathtool(&key, 1))];
    let answer = browser.post("/login/code", &form);
    let code = query_of(answer.header("location").unwrap())["code"].clone();
    let tokens = token(&shop, &code_form(&code)).json();
    assert_eq!(order(tokens["access_token"].as_str().unwrap()).status, 200);
}

#[test]
fn a_user_logs_out_everywhere() {
    let shop = Shop::open("");
    let mut browser = Browser::new(&shop);
    let tokens = browser.tokens("alice");
    let mut other = Browser::new(&shop);
    other.log_in("alice");
    let page = account(&mut browser, &[("action", "end-all-sessions")]);
    assert_eq!(page.status, 200, "{page:?}");
    assert!(!browser.cookies.contains_key(SESSION));
    let refresh_token = tokens["refresh_token"].as_str().unwrap();
    let refused = token(&shop, &crate::browser::refresh_form(refresh_token));
    assert_eq!(refused.status, 400);
    let page = other.get("/account");
    assert!(page.body.contains("name=\"password\""), "{page:?}");
}
