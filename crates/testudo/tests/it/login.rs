//! The login, attacked: other people's forms, redirects, codes, passwords and sessions.

use std::{
    io::ErrorKind,
    net::TcpListener,
    time::{Duration, Instant},
};

use crate::{
    browser::{
        Browser, CALLBACK, CLIENT, VERIFIER, authorize_path, code_form, flow_of, form_request,
        query_of, refresh_form, set_cookies, token,
    },
    forge::get,
    paths::transaction_of,
    shop::{Shop, password},
    wire::{self, Answer},
};

const SESSION: &str = "__Host-testudo-session";
const BROWSER: &str = "__Host-testudo-browser";

#[test]
fn pages_cannot_be_framed_cached_or_read_by_others() {
    let shop = Shop::open("");
    let mut browser = Browser::new(&shop);
    let login = browser.get(&authorize_path(&[]));
    let bad = browser.get(&authorize_path(&[("client_id", "nobody")]));
    let logout = browser.get("/logout");
    assert_eq!((login.status, bad.status, logout.status), (200, 400, 200));
    let mut inside = Browser::new(&shop);
    inside.log_in("alice");
    let own = ["/logout", "/account", "/device"].map(|path| inside.get(path));
    assert!(
        own.iter()
            .all(|page| page.status == 200 && page.body.contains("name=\"flow\""))
    );
    for page in [&login, &bad, &logout].into_iter().chain(&own) {
        let policy = page.header("content-security-policy").unwrap();
        for directive in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(directive), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(page.header(name), Some(value), "{name}");
        }
        assert!(
            page.header("strict-transport-security")
                .unwrap()
                .contains("max-age=")
        );
        assert!(page.header("access-control-allow-origin").is_none());
        assert!(!has_other_script(&page.body), "{}", page.body);
    }
    // The flags of the cookies, before and after a login.
    browser.log_in("alice");
    let flow = flow_of(&login);
    let mut again = Browser::new(&shop);
    again
        .cookies
        .insert(BROWSER.to_owned(), browser.cookies[BROWSER].clone());
    let form = [
        ("flow", &*flow),
        ("username", "alice"),
        ("password", &*password("alice")),
    ];
    let logged_in = again.post("/login", &form);
    for cookie in set_cookies(&login).iter().chain(&set_cookies(&logged_in)) {
        for flag in [
            "__Host-",
            "; Secure",
            "; HttpOnly",
            "; Path=/",
            "; SameSite=",
        ] {
            assert!(cookie.contains(flag), "{cookie}");
        }
        assert!(
            !cookie.contains("Domain") && !cookie.contains("SameSite=None"),
            "{cookie}"
        );
    }
    assert_eq!(logged_in.header("cache-control"), Some("no-store"));
    // Text from outside is text.
    let markup = "\"><script>alert(1)</script>";
    let page = browser.get(&authorize_path(&[
        ("login_hint", markup),
        ("prompt", "login"),
    ]));
    assert!(!has_other_script(&page.body), "{}", page.body);
    let page = Browser::new(&shop).get(&authorize_path(&[("client_id", markup)]));
    assert!(!has_other_script(&page.body), "{}", page.body);
}

/// Whether a page has a script beside the one of our own: nothing stands in the page itself.
fn has_other_script(body: &str) -> bool {
    let own = "<script src=\"/assets/passkey.js\" defer></script>";
    body.replace(own, "").contains("<script")
}

#[test]
fn a_login_form_works_in_the_browser_it_was_given_to_and_nowhere_else() {
    let shop = Shop::open("");
    let (mut attacker, mut victim) = (Browser::new(&shop), Browser::new(&shop));
    let attackers_flow = attacker.open_login();
    let victims_flow = victim.open_login();
    let secret = password("alice");
    let with = |flow: &str, browser: &mut Browser<'_>, fields: &str| {
        let form = [
            ("flow", flow),
            ("username", "alice"),
            ("password", &*secret),
        ];
        browser.post_with("/login", &form, fields)
    };
    let same = "Sec-Fetch-Site: same-origin\r\n";
    // Login CSRF: the attacker's form sent from the victim's browser, and a form that no browser was given.
    assert_eq!(with(&attackers_flow, &mut victim, same).status, 403);
    assert_eq!(
        with(&attackers_flow, &mut Browser::new(&shop), same).status,
        403
    );
    assert_eq!(with(&victims_flow, &mut attacker, same).status, 403);
    // A page elsewhere that sends the form.
    for site in ["cross-site", "same-site"] {
        assert_eq!(
            with(
                &victims_flow,
                &mut victim,
                &format!("Sec-Fetch-Site: {site}\r\n")
            )
            .status,
            403
        );
    }
    // A cookie tossed beside the right one.
    let right = victim.cookies[BROWSER].clone();
    let mut tossed = Browser::new(&shop);
    tossed
        .cookies
        .insert(BROWSER.to_owned(), format!("{right}; {BROWSER}=x"));
    assert_eq!(with(&victims_flow, &mut tossed, same).status, 403);
    // A form that was changed, or is none.
    let mut changed = victims_flow.clone();
    let end = changed.pop().unwrap();
    changed.push(if end == 'A' { 'B' } else { 'A' });
    for flow in [&*changed, "", "x", &"A".repeat(9_000)] {
        let answer = with(flow, &mut victim, same);
        assert!(matches!(answer.status, 400 | 413), "{answer:?}");
    }
    for browser in [&attacker, &victim] {
        assert!(!browser.cookies.contains_key(SESSION), "no session");
    }
    // Another method, another media type.
    assert_eq!(victim.get("/login").status, 405);
    let json = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(shop.ask_server(json).status, 415);
    let text = json.replace("application/json", "text/plain");
    assert_eq!(shop.ask_server(&text).status, 415);
    // The right browser is let in.
    assert_eq!(with(&victims_flow, &mut victim, same).status, 303);
    assert!(victim.cookies.contains_key(SESSION));
}

#[test]
fn a_session_that_was_there_before_the_login_is_not_the_one_after_it() {
    let shop = Shop::open("");
    let mut attacker = Browser::new(&shop);
    attacker.log_in("larry");
    let planted = attacker.cookies[SESSION].clone();
    // The victim logs in over the attacker's session, and over one that is made up.
    for fixed in [
        planted.clone(),
        "ses_00000000000000000000000000.x".to_owned(),
    ] {
        let mut victim = Browser::new(&shop);
        let flow = victim.open_login();
        victim.cookies.insert(SESSION.to_owned(), fixed.clone());
        let form = [
            ("flow", &*flow),
            ("username", "alice"),
            ("password", &*password("alice")),
        ];
        assert_eq!(victim.post("/login", &form).status, 303);
        assert_ne!(victim.cookies[SESSION], fixed);
        assert_eq!(
            victim.get(&authorize_path(&[("prompt", "none")])).status,
            303
        );
    }
    // What was planted opens nothing of the victim's.
    let mut attacker = Browser::new(&shop);
    attacker.cookies.insert(SESSION.to_owned(), planted);
    let answer = attacker.get(&authorize_path(&[("prompt", "none")]));
    assert_eq!(
        query_of(answer.header("location").unwrap())["error"],
        "login_required"
    );
    // Guessed and bent cookies.
    let mut honest = Browser::new(&shop);
    honest.log_in("alice");
    let good = honest.cookies[SESSION].clone();
    let (id, _) = good.split_once('.').unwrap();
    for bent in [
        id.to_owned(),
        format!("{id}."),
        format!("{id}.{}", "A".repeat(43)),
        format!("{good}A"),
        good[..good.len() - 1].to_owned(),
        "A".repeat(8_000),
        format!("{good}; {SESSION}={good}"),
        format!("\"{good}\""),
    ] {
        let mut browser = Browser::new(&shop);
        browser.cookies.insert(SESSION.to_owned(), bent.clone());
        let answer = browser.get(&authorize_path(&[("prompt", "none")]));
        let error = query_of(answer.header("location").unwrap())
            .get("error")
            .cloned();
        assert_eq!(
            error.as_deref(),
            Some("login_required"),
            "{bent:.60}: {answer:?}"
        );
    }
}

#[test]
fn answers_go_to_registered_addresses_only() {
    let shop = Shop::open("");
    let mut browser = Browser::new(&shop);
    browser.log_in("alice");
    let bait = TcpListener::bind("127.0.0.1:0").unwrap();
    bait.set_nonblocking(true).unwrap();
    let web = [
        "//evil.example",
        "//evil.example/callback",
        "https:evil.example",
        "https:/evil.example",
        "\\\\evil.example",
        "/\\evil.example",
        "https://evil.example/callback",
        "https://app.example.evil.example/callback",
        "https://app.example@evil.example/callback",
        "https://evil.example#@app.example/callback",
        "https://evil.example\\@app.example/callback",
        "https://app.example/callback/",
        "https://app.example/callback?x=1",
        "https://app.example/callback#x",
        "https://app.example/Callback",
        "https://APP.example/callback",
        "https://app.example:443/callback",
        "https://app.example:8443/callback",
        "http://app.example/callback",
        "https://app.example/callback/../x",
        "https://app.example/callback%2f..",
        "https://app.example/%63allback",
        "https://app.example/callback%0d%0aSet-Cookie:x",
        "https://app.example/callback\r\nSet-Cookie: a=b",
        "https://app.example/callback ",
        " https://app.example/callback",
        "https://app.example/callback\u{0}",
        "https://app.example./callback",
        "https://аpp.example/callback",
        "javascript:alert(1)",
        "data:text/html,x",
        "about:blank",
        "/callback",
        "callback",
        "*",
        "http://127.0.0.1/callback",
        "http://localhost/callback",
        "https://app.example/callback,https://evil.example",
    ];
    let native = [
        "http://127.0.0.1.evil.example/callback",
        "http://127.0.0.1@evil.example/callback",
        "http://127.0.0.1:80@evil.example/callback",
        "http://127.0.0.1:99999/callback",
        "http://127.0.0.1:/callback",
        "http://127.0.0.1:0/callback",
        "http://127.0.0.1:80/callback/x",
        "http://127.0.0.1:80/Callback",
        "http://127.0.0.1:80/callback?x",
        "http://127.0.0.1:80/callback#x",
        "http://127.0.0.1:80\\@evil.example/callback",
        "https://127.0.0.1/callback",
        "http://127.0.0.2/callback",
        "http://localhost/callback",
        "http://[::1]/callback",
        "http://0.0.0.0/callback",
        "http://2130706433/callback",
        "http://127.1/callback",
        "http://127.0.0.1:+80/callback",
        "http://127.0.0.1:8 0/callback",
    ];
    let cases = web
        .iter()
        .map(|uri| (CLIENT, uri))
        .chain(native.iter().map(|uri| ("cli", uri)));
    for (client, uri) in cases {
        // Whatever else is wrong with the request: there is nowhere to tell it.
        for more in [
            ("prompt", ""),
            ("response_type", "token"),
            ("prompt", "none"),
        ] {
            let answer = browser.get(&authorize_path(&[
                ("client_id", client),
                ("redirect_uri", uri),
                more,
            ]));
            assert_eq!(answer.status, 400, "{client} {uri}: {answer:?}");
            assert!(
                answer.header("location").is_none(),
                "{client} {uri}: {answer:?}"
            );
            assert!(
                !answer.body.contains("http-equiv") && !answer.body.contains("href=\"http"),
                "{answer:?}"
            );
        }
    }
    // Missing, repeated, of nobody, or in a request that nobody has signed.
    let path = authorize_path(&[]);
    for path in [
        authorize_path(&[("redirect_uri", "")]),
        format!("{path}&redirect_uri=https%3A%2F%2Fevil.example"),
        format!("{path}&client_id=cli"),
        authorize_path(&[("client_id", "")]),
        authorize_path(&[("client_id", "nobody")]),
        authorize_path(&[("client_id", "robot")]),
        authorize_path(&[("request", "eyJhbGciOiJub25lIn0.e30.")]),
    ] {
        let answer = browser.get(&path);
        assert_eq!(
            (answer.status, answer.header("location")),
            (400, None),
            "{path}"
        );
    }
    // From here on the client is told, at its own address and with who says so (RFC 9207).
    let issuer = shop.fleet.ready["server"].as_str().unwrap();
    let by_reference = format!("http://{}/request", bait.local_addr().unwrap());
    for (changes, error) in [
        (
            &[("response_type", "token")][..],
            "unsupported_response_type",
        ),
        (
            &[("response_type", "code id_token")],
            "unsupported_response_type",
        ),
        (&[("response_mode", "fragment")], "invalid_request"),
        (&[("response_mode", "form_post")], "invalid_request"),
        (&[("code_challenge", "")], "invalid_request"),
        (&[("code_challenge_method", "")], "invalid_request"),
        (&[("code_challenge_method", "plain")], "invalid_request"),
        (&[("code_challenge_method", "s256")], "invalid_request"),
        (
            &[
                ("code_challenge", VERIFIER),
                ("code_challenge_method", "plain"),
            ],
            "invalid_request",
        ),
        (&[("code_challenge", "short")], "invalid_request"),
        (
            &[("request_uri", &*by_reference)],
            "request_uri_not_supported",
        ),
        (&[("registration", "{}")], "registration_not_supported"),
        (&[("resource", "https://other.example")], "invalid_target"),
    ] {
        let answer = browser.get(&authorize_path(changes));
        let location = answer
            .header("location")
            .unwrap_or_else(|| panic!("{changes:?}: {answer:?}"));
        assert!(location.starts_with(&format!("{CALLBACK}?")), "{location}");
        let query = query_of(location);
        assert_eq!(query["error"], error, "{changes:?}");
        assert_eq!(
            (&*query["state"], &*query["iss"]),
            ("the-state", issuer),
            "{changes:?}"
        );
        assert!(!query.contains_key("code"), "{changes:?}");
    }
    assert_eq!(
        bait.accept().map(|_| ()).unwrap_err().kind(),
        ErrorKind::WouldBlock,
        "no request by reference"
    );
    // A state cannot break out of the query it comes back in.
    let answer = browser.get(&authorize_path(&[(
        "state",
        "a&code=x#\r\nSet-Cookie: a=b",
    )]));
    let location = answer.header("location").unwrap();
    assert_eq!(query_of(location)["state"], "a&code=x#\r\nSet-Cookie: a=b");
    assert!(
        set_cookies(&answer).is_empty() && location.starts_with(&format!("{CALLBACK}?")),
        "{answer:?}"
    );
    // A logout has no way back to anybody.
    let answer = browser.post(
        "/logout",
        &[
            ("post_logout_redirect_uri", "https://evil.example"),
            ("return_to", "//evil.example"),
        ],
    );
    assert_eq!((answer.status, answer.header("location")), (200, None));
    assert!(!answer.body.contains("evil.example"));
}

#[test]
fn a_code_is_good_once_for_who_asked_with_the_key_they_asked_with() {
    let shop = Shop::open("");
    let changed = |code: &str, name: &str, value: &str| {
        let mut form = code_form(code);
        form.retain(|(found, _)| *found != name);
        if !value.is_empty() {
            form.push((name, value));
        }
        let request = form_request("/oauth2/token", &form, "");
        shop.ask_server(&request)
    };
    let other_verifier = "A".repeat(43);
    for (name, value) in [
        ("code_verifier", ""),
        ("code_verifier", &*other_verifier),
        ("code_verifier", "short"),
        ("redirect_uri", ""),
        ("redirect_uri", "https://app.example/callback/"),
        ("client_id", "cli"),
        ("client_id", "robot"),
        ("client_id", "nobody"),
        ("client_id", ""),
        ("grant_type", "password"),
        ("grant_type", "implicit"),
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("grant_type", "client_credentials"),
        ("grant_type", ""),
    ] {
        let code = Browser::new(&shop).log_in("alice")["code"].clone();
        let answer = changed(&code, name, value);
        assert!(
            matches!(answer.status, 400 | 401),
            "{name}={value}: {answer:?}"
        );
        assert!(
            !answer.body.contains("access_token\""),
            "{name}={value}: {answer:?}"
        );
    }
    // A changed code is no code.
    let code = Browser::new(&shop).log_in("alice")["code"].clone();
    for bent in [
        format!("{code}A"),
        code[..code.len() - 1].to_owned(),
        code.to_lowercase(),
        String::new(),
        "A".repeat(5_000),
    ] {
        assert_eq!(changed("x", "code", &bent).status, 400, "{bent:.60}");
    }
    // Used twice, it takes back what it gave: one of the two was not who asked.
    let first = token(&shop, &code_form(&code));
    assert_eq!(first.status, 200);
    assert_eq!(first.header("cache-control"), Some("no-store"));
    let tokens = first.json();
    let access_token = tokens["access_token"].as_str().unwrap();
    assert_eq!(
        shop.fleet
            .call("GET", "/api/orders/1", Some(access_token), "")
            .status,
        200
    );
    let replayed = token(&shop, &code_form(&code));
    assert_eq!(
        (replayed.status, replayed.json()["error"].as_str()),
        (400, Some("invalid_grant"))
    );
    refused_within(&shop, access_token, Duration::from_secs(2));
    if let Some(refresh_token) = tokens["refresh_token"].as_str() {
        assert_eq!(token(&shop, &refresh_form(refresh_token)).status, 400);
    }
    // An ID token logs nobody in.
    let tokens = Browser::new(&shop).tokens("alice");
    for name in ["id_token", "refresh_token"] {
        if let Some(other) = tokens[name].as_str() {
            assert_eq!(
                shop.fleet
                    .call("GET", "/api/orders/1", Some(other), "")
                    .status,
                401,
                "{name}"
            );
            assert_eq!(
                shop.ask_server(&get(
                    "/api/v1/status",
                    &format!("Authorization: Bearer {other}\r\n")
                ))
                .status,
                401
            );
        }
    }
    assert!(tokens["id_token"].is_string());
}

#[test]
fn nobody_learns_who_has_an_account_and_guessing_is_slowed_down() {
    let shop = Shop::open("");
    let attempt = |username: &str, secret: &str| {
        let mut browser = Browser::new(&shop);
        let flow = browser.open_login();
        let form = [
            ("flow", &*flow),
            ("username", username),
            ("password", secret),
        ];
        (browser.post("/login", &form), flow)
    };
    // The same page, whether the name exists or not.
    let blank = |(answer, flow): &(Answer, String), name: &str| {
        let head: Vec<&str> = answer
            .head
            .lines()
            .filter(|line| !line.to_lowercase().starts_with("date:"))
            .collect();
        let mut head = head.join("\n");
        // The name is typed text, shown again; nothing else may differ.
        if let Some(start) = head.to_lowercase().find("content-length:") {
            let end = head[start..]
                .find('\n')
                .map_or(head.len(), |end| start + end);
            head.replace_range(start..end, "");
        }
        // It follows from the form.
        let challenge = answer.body.split("data-challenge=\"").nth(1);
        let challenge = challenge.and_then(|rest| rest.split('"').next()).unwrap();
        let body = answer.body.replace(challenge, "CHALLENGE");
        let body = body.replace(flow, "FLOW").replace(name, "NAME");
        (answer.status, head, body)
    };
    let wrong = attempt("larry", "a wrong password");
    let unknown = attempt("nobody-of-this-name", "a wrong password");
    assert_eq!(wrong.0.status, 401);
    assert_eq!(
        blank(&wrong, "larry"),
        blank(&unknown, "nobody-of-this-name")
    );
    // After some failures the next one has to wait, and so does one for a name that does not exist.
    for name in ["larry", "nobody-of-this-name"] {
        let refused = (0..10)
            .map(|_| attempt(name, "a wrong password").0)
            .find(|answer| answer.status == 429);
        let refused = refused.unwrap_or_else(|| panic!("{name} may be guessed without end"));
        let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=300).contains(&seconds), "{seconds}");
        // Nor is the right password taken while it waits: an answer would tell.
        if name == "larry" {
            assert_eq!(attempt(name, &password(name)).0.status, 429);
            // A name is the same name in any spelling that logs in.
            assert_eq!(attempt(" LARRY ", &password(name)).0.status, 429);
        }
    }
    // Others log in meanwhile.
    let mut alice = Browser::new(&shop);
    alice.log_in("alice");
    assert!(alice.cookies.contains_key(SESSION));
    // Parallel guesses do not slip past the counter.
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| attempt("root", "a wrong password").0.status))
            .collect();
        guesses
            .into_iter()
            .map(|guess| guess.join().unwrap())
            .collect()
    });
    let answered = statuses.iter().filter(|status| **status == 401).count();
    assert!(
        answered <= 7 && statuses.iter().all(|status| matches!(status, 401 | 429)),
        "{statuses:?}"
    );
    // Passwords that are none of anybody's are refused like wrong ones, and cost no more.
    let endless = attempt("audrey", &"x".repeat(20_000)).0;
    assert!(matches!(endless.status, 401 | 429), "{endless:?}");
}

#[test]
fn a_refresh_token_used_twice_ends_the_session_everywhere() {
    let shop = Shop::open("");
    let tokens = Browser::new(&shop).tokens("alice");
    let first = tokens["refresh_token"].as_str().unwrap().to_owned();
    let second = token(&shop, &refresh_form(&first)).json()["refresh_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let third = token(&shop, &refresh_form(&second)).json();
    let access_token = third["access_token"].as_str().unwrap();
    let third = third["refresh_token"].as_str().unwrap();
    assert!(first != second && second != third);
    assert_eq!(
        shop.fleet
            .call("GET", "/api/orders/1", Some(access_token), "")
            .status,
        200
    );
    // Who has the first one now has stolen it, or was stolen from.
    let reused = token(&shop, &refresh_form(&first));
    assert_eq!(
        (reused.status, reused.json()["error"].as_str()),
        (400, Some("invalid_grant"))
    );
    assert_eq!(token(&shop, &refresh_form(third)).status, 400);
    refused_within(&shop, access_token, Duration::from_secs(2));
    // A genuine one in the hands of another client.
    let tokens = Browser::new(&shop).tokens("alice");
    let stolen = tokens["refresh_token"].as_str().unwrap();
    let mut form = refresh_form(stolen);
    form.retain(|(name, _)| *name != "client_id");
    form.push(("client_id", "cli"));
    assert_eq!(token(&shop, &form).status, 400);
    assert_eq!(token(&shop, &refresh_form(stolen)).status, 400);
    refused_within(
        &shop,
        tokens["access_token"].as_str().unwrap(),
        Duration::from_secs(2),
    );
    // More than was granted is not to be had.
    let tokens = Browser::new(&shop).tokens("alice");
    let mut form = refresh_form(tokens["refresh_token"].as_str().unwrap());
    form.push(("scope", "openid profile email everything"));
    let answer = token(&shop, &form);
    assert!(
        answer.status == 400 || !answer.body.contains("everything"),
        "{answer:?}"
    );
}

#[test]
fn a_logout_ends_it_everywhere_within_a_second() {
    let shop = Shop::open("");
    let mut browser = Browser::new(&shop);
    let tokens = browser.tokens("alice");
    let access_token = tokens["access_token"].as_str().unwrap();
    let transaction = transaction_of(&shop, access_token);
    let helper = shop.member(Some("helper"));
    let at_sidecar = || {
        let request = get("/api/orders/1", &format!("Txn-Token: {transaction}\r\n"));
        wire::exchange(
            &mut shop.at_sidecar("shop", &helper).unwrap(),
            request.as_bytes(),
        )
        .unwrap()
        .unwrap()
        .status
    };
    assert_eq!(at_sidecar(), 200);
    let cookie = browser.cookies[SESSION].clone();
    // Nobody else's link or form logs anybody out.
    let page = browser.get("/logout");
    assert_eq!(page.status, 200);
    assert_eq!(
        browser
            .post_with(
                "/logout",
                &[("flow", &*flow_of(&page))],
                "Sec-Fetch-Site: cross-site\r\n"
            )
            .status,
        403
    );
    assert_eq!(
        shop.fleet
            .call("GET", "/api/orders/1", Some(access_token), "")
            .status,
        200
    );

    // A form that was shown to nobody, or to somebody else, asks again.
    let mut other = Browser::new(&shop);
    other.log_in("larry");
    for flow in ["", "x", &*flow_of(&other.get("/logout"))] {
        let answer = browser.post("/logout", &[("flow", flow)]);
        assert!(answer.body.contains("Log out?"), "{answer:?}");
        assert!(browser.cookies.contains_key(SESSION));
    }

    let answer = browser.post("/logout", &[("flow", &*flow_of(&page))]);
    assert_eq!(answer.status, 200);
    assert!(
        !browser.cookies.contains_key(SESSION),
        "the cookie is taken away"
    );
    refused_within(&shop, access_token, Duration::from_secs(2));
    let until = Instant::now() + Duration::from_secs(2);
    while at_sidecar() != 401 {
        assert!(
            Instant::now() < until,
            "the sidecar still believes the transaction token"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    shop.upstream.take();
    assert_eq!(
        token(
            &shop,
            &refresh_form(tokens["refresh_token"].as_str().unwrap())
        )
        .status,
        400
    );
    for path in ["/oauth2/userinfo", "/api/v1/status"] {
        let answer = shop.ask_server(&get(
            path,
            &format!("Authorization: Bearer {access_token}\r\n"),
        ));
        assert_eq!(answer.status, 401, "{path}");
    }
    // The cookie, kept by somebody.
    browser.cookies.insert(SESSION.to_owned(), cookie);
    let answer = browser.get(&authorize_path(&[("prompt", "none")]));
    assert_eq!(
        query_of(answer.header("location").unwrap())["error"],
        "login_required"
    );
    // Nor does a restart bring it back.
    let access_token = access_token.to_owned();
    drop(browser);
    let (shop, ()) = shop.while_closed(|_, _| ());
    assert_eq!(
        shop.fleet
            .call("GET", "/api/orders/1", Some(&access_token), "")
            .status,
        401
    );

    // A user who is disabled, and a session an administrator ends.
    let tokens = Browser::new(&shop).tokens("alice");
    shop.fleet.folder.run(&["user", "disable", "alice"]);
    let disabled = tokens["access_token"].as_str().unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while shop
        .fleet
        .call("GET", "/api/orders/1", Some(disabled), "")
        .status
        == 200
    {
        assert!(Instant::now() < until, "a disabled user still calls");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut browser = Browser::new(&shop);
    let flow = browser.open_login();
    let form = [
        ("flow", &*flow),
        ("username", "alice"),
        ("password", &*password("alice")),
    ];
    assert_eq!(
        browser.post("/login", &form).status,
        401,
        "and does not log in"
    );
}

/// The gateway refuses the token in time.
fn refused_within(shop: &Shop, access_token: &str, limit: Duration) {
    let began = Instant::now();
    loop {
        let status = shop
            .fleet
            .call("GET", "/api/orders/1", Some(access_token), "")
            .status;
        if status == 401 {
            break;
        }
        assert_eq!(status, 200);
        assert!(
            began.elapsed() < limit,
            "a revoked token still opens the gateway"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    shop.upstream.take();
}
