//! What is wrong although every value can be read.

use testudo_model::ActionClass;
use testudo_runtime::fleet::{SeedAuthentication, SidecarListen, TrustedKeys};

use crate::support::{accept, codes, load};

/// A service `name` at `port` with `routes`, each `operation match`.
fn service(name: &str, port: u16, more: &str, routes: &[(&str, &str)]) -> String {
    let routes: String = routes
        .iter()
        .map(|(operation, matches)| {
            format!(
                "[[services.{name}.routes]]\noperation = \"{operation}\"\nmatch = \"{matches}\"\n"
            )
        })
        .collect();
    format!("[services.{name}]\nupstream = \"127.0.0.1:{port}\"\n{more}\n{routes}")
}

#[test]
fn routes_that_would_contest_a_request_are_refused() {
    let check = |routes: &[(&str, &str)]| codes(&service("a", 7000, "", routes));
    assert_eq!(
        check(&[("x", "GET /a"), ("x", "GET /b")]),
        ["fleet.duplicate_operation"]
    );
    assert_eq!(
        check(&[("x", "GET /a/{id}"), ("y", "PUT,GET /a/{name}")]),
        ["fleet.route_conflict"]
    );
    assert_eq!(
        check(&[("x", "GET /a"), ("y", "HEAD /a")]),
        ["fleet.route_conflict"]
    );
    assert_eq!(
        check(&[("x", "GET /a/{id}"), ("y", "PUT /a/{name}")]),
        [""; 0]
    );
    assert_eq!(check(&[("x", "GET /a/{id}"), ("y", "GET /a/new")]), [""; 0]);
    assert_eq!(
        check(&[("x", "GET /a/{id}"), ("y", "GET /{kind}/b")]),
        ["fleet.route_overlap"]
    );
    assert_eq!(check(&[]), ["fleet.no_routes"]);
}

#[test]
fn routes_that_no_proxy_can_hold_are_refused() {
    let check = |routes: &[(&str, &str)]| codes(&service("a", 7000, "", routes));
    let fork = ["fleet.route_fork"];
    assert_eq!(
        check(&[("x", "GET /f/{id}"), ("y", "GET /f/{*rest}")]),
        fork
    );
    assert_eq!(
        check(&[("x", "GET /f/{id}/a"), ("y", "PUT /f/{*rest}")]),
        fork,
        "whatever the methods"
    );
    assert_eq!(
        check(&[("x", "GET /f/a/{id}"), ("y", "GET /f/{*rest}")]),
        [""; 0]
    );
    assert_eq!(
        check(&[("x", "GET /%61"), ("y", "GET /a")]),
        ["fleet.route_conflict"],
        "two spellings of one path"
    );
    assert_eq!(check(&[("x", "GET /a%zz")]).len(), 1);
    let external = "exposure = \"external\"";
    let both = |more: &str, one: &str, two: &str| {
        let one = service("a", 7000, more, &[("x", one)]);
        codes(&format!("{one}{}", service("b", 7001, more, &[("x", two)])))
    };
    assert_eq!(both(external, "GET /f/{id}", "PUT /f/{*rest}"), fork);
    assert_eq!(both("", "GET /f/{id}", "GET /f/{*rest}"), [""; 0]);
    assert_eq!(
        both(external, "GET /users/%40all", "GET /users/@all"),
        ["fleet.contested_path"]
    );
}

#[test]
fn two_services_cannot_claim_one_public_path() {
    let check = |a: &str, b: &str, route_b: &str| {
        let names = "public_names = [\"a.example\", \"b.example\"]\n";
        let a = service("a", 7000, a, &[("x", "GET /orders/{id}")]);
        codes(&format!(
            "{names}{a}{}",
            service("b", 7001, b, &[("x", route_b)])
        ))
    };
    let external = "exposure = \"external\"";
    let host = |name: &str| format!("{external}\nhosts = [\"{name}.example\"]");
    assert_eq!(
        check(external, external, "POST /orders/{number}"),
        ["fleet.contested_path"]
    );
    assert_eq!(
        check(&host("a"), &host("a"), "GET /orders/{id}"),
        ["fleet.contested_path"]
    );
    assert_eq!(check(&host("a"), &host("b"), "GET /orders/{id}"), [""; 0]);
    assert_eq!(check(external, &host("b"), "GET /orders/{id}"), [""; 0]);
    assert_eq!(check(external, "", "GET /orders/{id}"), [""; 0]);
    assert_eq!(check(external, external, "GET /orders"), [""; 0]);
    assert_eq!(
        check("hosts = [\"a.example\"]", "", "GET /a"),
        ["fleet.hosts_of_internal"]
    );
    assert_eq!(check(&host("c"), "", "GET /a"), ["fleet.host_not_public"]);
}

#[test]
fn an_upstream_off_the_machine_needs_consent() {
    let upstream = |address: &str, more: &str| {
        codes(&format!(
            "[services.a]\nupstream = \"{address}\"\n{more}\n[[services.a.routes]]\noperation = \"x\"\nmatch = \"GET /\"\n"
        ))
    };
    assert_eq!(upstream("10.0.0.7:80", ""), ["fleet.remote_upstream"]);
    assert!(load("[services.a]\nupstream = \"10.0.0.7:80\"\n").is_err());
    assert_eq!(
        upstream("10.0.0.7:80", "allow_remote_upstream = true"),
        ["fleet.remote_upstream"]
    );
    accept("[services.a]\nupstream = \"10.0.0.7:80\"\nallow_remote_upstream = true\n");
    assert_eq!(
        upstream("0.0.0.0:80", "allow_remote_upstream = true"),
        ["fleet.upstream_address"]
    );
    assert_eq!(upstream("127.0.0.1:0", ""), ["fleet.upstream_address"]);
    assert_eq!(upstream("[::1]:80", ""), [""; 0]);
}

#[test]
fn nobody_listens_where_somebody_else_does() {
    assert_eq!(
        codes("[services]\n[listen]\nserver = 8443\n"),
        ["fleet.port_clash"]
    );
    assert_eq!(
        codes("[services]\n[listen]\nserver = \"0.0.0.0:8443\"\n"),
        ["fleet.port_clash"]
    );
    assert_eq!(
        codes("[services]\n[listen]\nserver = \"127.0.0.2:8443\"\n"),
        [""; 0]
    );
    assert_eq!(
        codes("[services]\n[listen]\nserver = 0\ngateway = 0\n"),
        [""; 0]
    );
    let routes = [("x", "GET /")];
    assert_eq!(
        codes(&service("a", 8443, "", &routes)),
        ["fleet.port_clash"]
    );
    let two = [
        service("a", 7000, "", &routes),
        service("b", 7000, "", &routes),
    ]
    .concat();
    assert_eq!(codes(&two), ["fleet.shared_upstream"]);
    let exposed = service(
        "a",
        7000,
        "sidecar = { outbound = \"0.0.0.0:15006\" }",
        &routes,
    );
    assert_eq!(codes(&exposed), ["fleet.outbound_exposed"]);
}

#[test]
fn what_is_referred_to_must_exist() {
    let text = r#"
        roles = ["stock-admin"]
        [services]
        [groups]
        managers = ["staf"]
        staff = []
        [users.alice]
        groups = ["stafff"]
        roles = ["stock-amin"]
        [service_accounts.ci]
        spiffe = "orders"
        [clients.shop]
        kind = "confidential"
        spiffe = "ordrs"
        grant_types = ["client_credentials"]
    "#;
    let errors = load(text).unwrap_err();
    let told: Vec<_> = errors
        .problems
        .iter()
        .map(|p| (p.message.as_str(), p.help.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(
        told,
        [
            ("there is no group `staf`", "did you mean `staff`?"),
            ("there is no group `stafff`", "did you mean `staff`?"),
            (
                "there is no role `stock-amin`",
                "did you mean `stock-admin`?"
            ),
            (
                "there is no service `orders`",
                "declare it under `[services.orders]`"
            ),
            (
                "there is no service `ordrs`",
                "declare it under `[services.ordrs]`"
            ),
        ]
    );
}

#[test]
fn a_service_with_a_mistake_is_not_reported_as_missing() {
    let text = "[services.orders]\nupstrem = \"127.0.0.1:1\"\n[service_accounts.ci]\nspiffe = \"orders\"\n";
    assert_eq!(codes(text), ["fleet.unknown_key"]);
}

#[test]
fn groups_form_no_circle() {
    assert_eq!(
        codes("[services]\n[groups]\na = [\"a\"]\n"),
        ["fleet.group_cycle"]
    );
    let circle = "[services]\n[groups]\na = [\"b\"]\nb = [\"c\"]\nc = [\"a\"]\nd = [\"a\"]\n";
    assert_eq!(codes(circle), ["fleet.group_cycle"; 3]);
    assert_eq!(
        codes("[services]\n[groups]\na = [\"b\", \"c\"]\nb = [\"c\"]\nc = []\n"),
        [""; 0]
    );
}

#[test]
fn a_client_of_the_fapi_profile_signs_and_returns_to_https() {
    let client = |text: &str| {
        codes(&format!(
            "[services]\n[clients.bank]\nfapi2_security_profile = true\n{text}\n"
        ))
    };
    let redirect = "redirect_uris = [\"https://bank.example/cb\"]\n";
    let signs = "kind = \"confidential\"\njwks = '{\"keys\":[]}'\n";
    assert_eq!(client(&format!("{redirect}{signs}")), [""; 0]);
    assert_eq!(client(redirect), ["fleet.fapi"], "public");
    assert_eq!(
        client(&format!("{redirect}kind = \"confidential\"")),
        ["fleet.fapi"],
        "a secret"
    );
    assert_eq!(
        client(&format!(
            "redirect_uris = [\"http://127.0.0.1/cb\", \"com.example.app:/cb\"]\n{signs}"
        )),
        ["fleet.fapi", "fleet.fapi"]
    );
    let weaker = "pkce_optional = true\nid_token_signed_response_alg = \"RS256\"\nuserinfo_signed_response_alg = \"RS256\"\n";
    assert_eq!(
        client(&format!("{redirect}{signs}{weaker}")),
        ["fleet.fapi"; 3]
    );
}

#[test]
fn a_public_client_uses_pkce() {
    let client = |kind: &str| {
        codes(&format!(
            "[services]\n[clients.web]\nkind = \"{kind}\"\nredirect_uris = [\"https://web.example/cb\"]\npkce_optional = true\n"
        ))
    };
    assert_eq!(client("public"), ["fleet.public_client_pkce"]);
    assert_eq!(client("confidential"), [""; 0]);
}

#[test]
fn clients_cannot_claim_what_they_cannot_keep() {
    let client = |text: &str| codes(&format!("[services]\n[clients.shop]\n{text}\n"));
    let redirect = "redirect_uris = [\"https://shop.example/cb\"]\n";
    assert_eq!(client(redirect), [""; 0]);
    assert_eq!(client(""), ["fleet.redirect_uri"]);
    assert_eq!(
        client("redirect_uris = [\"https://*.example/cb\"]"),
        ["fleet.redirect_uri"]
    );
    assert_eq!(
        client(&format!("{redirect}secret = {{ file = \"x\" }}")),
        ["fleet.public_client_secret"]
    );
    assert_eq!(
        client(&format!("{redirect}grant_types = [\"client_credentials\"]")),
        ["fleet.grant_types"]
    );
    assert_eq!(
        client("kind = \"confidential\"\ngrant_types = [\"refresh_token\"]"),
        ["fleet.grant_types"]
    );
    assert_eq!(
        codes("[services]\n[clients.cli]\nredirect_uris = [\"https://a.example/\"]\n"),
        ["fleet.reserved_name"]
    );
    let twice = "[services]\n[service_accounts.ci]\n[clients.ci]\nredirect_uris = [\"https://a.example/\"]\n";
    assert_eq!(codes(twice), ["fleet.duplicate_client"]);
}

#[test]
fn a_client_without_a_secret_proves_itself_with_its_certificate() {
    let orders = service("orders", 7000, "", &[("x", "GET /")]);
    let loaded = accept(&format!(
        "{orders}[clients.shop]\nkind = \"confidential\"\nspiffe = \"orders\"\ngrant_types = [\"client_credentials\"]\n"
    ));
    let Some(SeedAuthentication::Workload(id)) = &loaded.fleet.clients[0].authentication else {
        panic!("no workload")
    };
    assert_eq!(id.as_str(), "spiffe://b.example/svc/orders");
}

#[test]
fn who_is_trusted_is_named_with_its_keys_and_vouches_for_somebody_in_particular() {
    let issuer = |more: &str| format!("[services]\n[trusted_issuers.x]\n{more}\n");
    let by_iss = "issuer = \"https://builds.example/\"";
    let loaded = accept(&issuer(by_iss));
    let [trusted] = &loaded.fleet.trusted_issuers[..] else {
        panic!("{:?}", loaded.fleet.trusted_issuers);
    };
    assert!(matches!(
        &trusted.keys,
        TrustedKeys::Discovery(address)
            if address == "https://builds.example/.well-known/openid-configuration"
    ));
    for wrong in [
        "",
        "issuer = \"https://a.example\"\ntrust_domain = \"a.example\"",
        "trust_domain = \"a.example\"",
        "trust_domain = \"b.example\"\njwks = \"{}\"",
        "issuer = \"http://builds.example\"",
        "issuer = \"builds\"",
        "issuer = \"builds\"\njwks_uri = \"http://builds.example/keys\"",
        "issuer = \"builds\"\njwks_uri = \"https://builds.example/keys\"\njwks = \"{}\"",
    ] {
        let found = codes(&issuer(wrong));
        assert!(
            found.contains(&"fleet.trusted_issuer"),
            "{wrong}: {found:?}"
        );
    }
    let twice = format!("{}[trusted_issuers.y]\n{by_iss}\n", issuer(by_iss));
    assert!(codes(&twice).contains(&"fleet.trusted_issuer"));
    let http = "[outbound]\nallow_http = true\n";
    accept(&format!(
        "{http}{}",
        issuer("issuer = \"http://builds.example\"")
    ));

    let account = |rule: &str, more: &str| {
        format!(
            "{}[service_accounts.deployer]\n{more}\nexternal = [{{ issuer = \"x\"{rule} }}]\n",
            issuer(by_iss)
        )
    };
    let good = accept(&account(", subject = \"main\"", ""));
    let deployer = &good.fleet.service_accounts[0];
    assert!(deployer.authentication.is_none() && deployer.external.len() == 1);
    for (rule, more, code) in [
        ("", "", "fleet.external"),
        (
            ", subject = \"main\"",
            "jwks = \"{}\"",
            "fleet.two_credentials",
        ),
    ] {
        assert!(codes(&account(rule, more)).contains(&code), "{code}");
    }
    let unknown = account(", subject = \"main\"", "").replace("issuer = \"x\"", "issuer = \"z\"");
    assert!(codes(&unknown).contains(&"fleet.unknown_reference"));
}

#[test]
fn an_identity_provider_elsewhere_is_named_whole_and_gives_only_groups_there_are() {
    let with = |text: &str| format!("[services]\n[groups]\nstaff = []\n{text}");
    let good = "[identity_providers.corp]\nissuer = \"https://login.corp.example\"\nclient_id = \"fleet\"\n\
                authentication = \"private_key_jwt\"\n";
    let loaded = accept(&with(&format!(
        "{good}groups = {{ map = {{ admins = [\"staff\"] }} }}\nassurance = [{{ amr = [\"mfa\"], class = 2 }}]\n"
    )));
    let [corp] = &loaded.fleet.identity_providers[..] else {
        panic!("{:?}", loaded.fleet.identity_providers);
    };
    assert_eq!((&*corp.name, corp.secret.is_none()), ("corp", true));
    assert_eq!(corp.section.scopes, ["openid", "profile", "email"]);
    assert_eq!(corp.section.groups.as_ref().unwrap().claim, "groups");
    for (from, to) in [
        ("https://login.corp.example", "http://login.corp.example"),
        ("https://login.corp.example", "login.corp.example"),
        ("https://login.corp.example", "https://a@login.corp.example"),
        ("https://login.corp.example", "https://login.corp.example?x"),
        ("\"fleet\"", "\"\""),
        (".corp]", ".Corp]"),
        (".corp]", ".\"a/b\"]"),
        ("private_key_jwt", "client_secret_basic"),
        (
            "private_key_jwt\"",
            "private_key_jwt\"\nscopes = [\"profile\"]",
        ),
        (
            "private_key_jwt\"",
            "private_key_jwt\"\nscopes = [\"openid\", \"a b\"]",
        ),
        (
            "private_key_jwt\"",
            "private_key_jwt\"\nsecret = { env = \"S\" }",
        ),
        (
            "private_key_jwt\"",
            "client_secret_post\"\nsecret = { hash = \"$argon2id$x\" }",
        ),
        (
            "private_key_jwt\"",
            "private_key_jwt\"\nassurance = [{ class = 2 }]",
        ),
    ] {
        let found = codes(&with(&good.replace(from, to)));
        assert!(
            found.contains(&"fleet.identity_provider"),
            "{to}: {found:?}"
        );
    }
    let twice = format!("{good}{}", good.replace(".corp]", ".club]"));
    assert!(codes(&with(&twice)).contains(&"fleet.identity_provider"));
    let nowhere = format!("{good}groups = {{ map = {{ admins = [\"nobody\"] }} }}\n");
    assert!(codes(&with(&nowhere)).contains(&"fleet.unknown_reference"));
    let class = format!("{good}assurance = [{{ acr = \"x\", class = 4 }}]\n");
    assert!(codes(&with(&class)).contains(&"fleet.out_of_range"));
    accept(&format!(
        "[outbound]\nallow_http = true\n{}",
        with(&good.replace("https://", "http://"))
    ));
}

#[test]
fn a_directory_is_reached_safely_and_asked_about_one_person() {
    let with = |text: &str| format!("[services]\n[groups]\nstaff = []\n{text}");
    let good = "[directories.corp]\nurl = \"ldaps://ldap.corp.example\"\nbind_dn = \"cn=t,dc=c\"\n\
                bind_password = { env = \"SECRET\" }\nbase = \"dc=c\"\nuser_filter = \"(uid={username})\"\n\
                groups = { base = \"dc=g\", map = { a = [\"staff\"] } }\n";
    let codes = |text: &str| {
        let found = codes(&with(text));
        let others = |code: &&&str| **code != "fleet.secret_unreadable";
        found.iter().filter(others).copied().collect::<Vec<_>>()
    };
    assert_eq!(codes(good), [""; 0]);
    for url in [
        "ldap://ldap.corp.example",
        "ldap://10.0.0.1:389",
        "ldaps://[::1]:636",
    ] {
        assert_eq!(
            codes(&good.replace("ldaps://ldap.corp.example", url)),
            [""; 0],
            "{url}"
        );
    }
    let plain = |url: &str| {
        good.replace(
            "ldaps://ldap.corp.example\"",
            &format!("{url}\"\nplain = true"),
        )
    };
    assert_eq!(codes(&plain("ldap://127.0.0.1:389")), [""; 0]);
    for url in [
        "ldap://ldap.corp.example",
        "ldaps://127.0.0.1",
        "ldap://127.0.0.1.evil.example",
    ] {
        assert!(codes(&plain(url)).contains(&"fleet.directory"), "{url}");
    }
    for (from, to) in [
        ("ldaps://ldap.corp.example", "http://ldap.corp.example"),
        ("ldaps://ldap.corp.example", "ldaps://"),
        ("ldaps://ldap.corp.example", "ldaps://a@b"),
        (
            "ldaps://ldap.corp.example",
            "ldaps://ldap.corp.example/dc=x",
        ),
        ("ldaps://ldap.corp.example", "ldaps://ldap.corp.example:0"),
        ("(uid={username})", "(uid=alice)"),
        ("(uid={username})", "(member={dn})"),
        ("(uid={username})", "uid={username}"),
        ("cn=t,dc=c", " "),
        (".corp]", ".Corp]"),
        ("base = \"dc=c\"", "base = \"dc=c\"\nid_attribute = \"a b\""),
        ("base = \"dc=g\"", "base = \"dc=g\", filter = \"(cn=x)\""),
    ] {
        let found = codes(&good.replace(from, to));
        assert!(found.contains(&"fleet.directory"), "{to}: {found:?}");
    }
    for more in [
        "timeout = \"1h\"",
        "refresh = \"1ms\"",
        "max_connections = 0",
        "page_size = 0",
    ] {
        let found = codes(&good.replace("base = \"dc=c\"", &format!("base = \"dc=c\"\n{more}")));
        assert!(found.contains(&"fleet.out_of_range"), "{more}: {found:?}");
    }
    assert!(codes(&good.replace("\"staff\"", "\"nobody\"")).contains(&"fleet.unknown_reference"));
}

#[test]
fn limits_and_ranges_hold() {
    let route = |more: &str| {
        let routes = [("x", "GET /")];
        codes(&format!("{}{more}\n", service("a", 7000, "", &routes)))
    };
    assert_eq!(route("timeout = \"1h\""), [""; 0]);
    assert_eq!(route("timeout = \"61m\""), ["fleet.out_of_range"]);
    assert_eq!(route("timeout = \"0s\""), ["fleet.out_of_range"]);
    assert_eq!(route("sensitivity = 101"), ["fleet.out_of_range"]);
    assert_eq!(
        route("limit = [{ per = \"ip\", rate = \"1/s\", burst = 0 }]"),
        ["fleet.limit_zero"]
    );
    assert_eq!(
        route("limit = [{ per = \"ip\", rate = \"0/s\" }]"),
        ["fleet.invalid_value"]
    );
    assert_eq!(
        codes("[services]\n[gateway]\ntrusted_proxies = [\"0.0.0.0/0\"]\n"),
        ["fleet.trusts_everybody"]
    );
    assert_eq!(
        codes("[services]\n[observability]\nlog_filter = \"a=lots\"\n"),
        ["fleet.log_filter"]
    );
    assert_eq!(
        codes("[services.gateway]\nupstream = \"127.0.0.1:1\"\nroutes = []\n"),
        ["fleet.reserved_name"]
    );
}

#[test]
fn a_service_that_takes_connections_has_ways_and_no_routes() {
    let plain = |more: &str| {
        codes(&format!(
            "[services.db]\nupstream = \"127.0.0.1:5432\"\nprotocol = \"tcp\"\n{more}\n"
        ))
    };
    assert_eq!(plain(""), [""; 0]);
    assert_eq!(
        plain("[[services.db.routes]]\noperation = \"x\"\nmatch = \"GET /\""),
        ["fleet.routes_of_connections"]
    );
    assert_eq!(plain("listen = 15432"), ["fleet.listen_of_internal"]);
    let external = "exposure = \"external\"\n";
    assert_eq!(plain(external), ["fleet.unreachable"]);
    assert_eq!(plain(&format!("{external}listen = 15432")), [""; 0]);
    assert_eq!(
        plain(&format!("{external}listen = 5432")),
        ["fleet.port_clash"]
    );
    assert_eq!(
        plain(&format!(
            "{external}listen = 15432\nhosts = [\"localhost\"]"
        )),
        ["fleet.hosts_of_connections"]
    );
    assert_eq!(plain("connections = { max = 0 }"), ["fleet.limit_zero"]);
    assert_eq!(
        plain("connections = { idle_timeout = \"13h\" }"),
        ["fleet.out_of_range"]
    );
    assert_eq!(
        plain("limit = [{ per = \"user\", rate = \"1/s\" }]"),
        ["fleet.limit_without_user"]
    );

    let app = |more: &str| {
        let db = "[services.db]\nupstream = \"127.0.0.1:5432\"\nprotocol = \"tcp\"\n";
        codes(&format!(
            "{db}{}",
            service("app", 7000, more, &[("x", "GET /")])
        ))
    };
    assert_eq!(app("sidecar.connections = { db = 15432 }"), [""; 0]);
    assert_eq!(
        app("sidecar.connections = { app = 15432 }"),
        ["fleet.connection_to_requests"]
    );
    assert_eq!(
        app("sidecar.connections = { bd = 15432 }"),
        ["fleet.unknown_reference"]
    );
    assert_eq!(
        app("sidecar.connections = { db = \"0.0.0.0:15432\" }"),
        ["fleet.outbound_exposed"]
    );
    assert_eq!(
        app("sidecar.connections = { db = 7000 }"),
        ["fleet.port_clash"]
    );
    assert_eq!(app("listen = 15432"), ["fleet.connections_of_requests"]);
    assert_eq!(
        app("connections = { max = 5 }"),
        ["fleet.connections_of_requests"]
    );
}

#[test]
fn tls_for_one_name_ends_in_one_place() {
    let passed = |name: &str, port: u16, host: &str| {
        format!(
            "[services.{name}]\nupstream = \"127.0.0.1:{port}\"\nprotocol = \"tls\"\nexposure = \"external\"\n\
             hosts = [\"{host}\"]\n"
        )
    };
    let vault = passed("vault", 8200, "vault.example");
    assert_eq!(codes(&vault), [""; 0]);
    let contested = ["fleet.contested_server_name"];
    assert_eq!(codes(&passed("vault", 8200, "localhost")), contested);
    let other = passed("other", 8201, "vault.example");
    assert_eq!(codes(&format!("{vault}{other}")), contested);
    let more = "exposure = \"external\"\nhosts = [\"vault.example\"]";
    let site = service("site", 7000, more, &[("x", "GET /")]);
    let mut found = codes(&format!("{vault}{site}"));
    found.retain(|code| *code != "fleet.host_not_public");
    assert_eq!(found, contested);
}

#[test]
fn the_proxy_protocol_needs_somebody_to_be_trusted() {
    let gateway = |more: &str| codes(&format!("[services]\n[gateway]\n{more}\n"));
    assert_eq!(
        gateway("proxy_protocol = \"required\""),
        ["fleet.proxy_protocol"]
    );
    let trusted = "trusted_proxies = [\"10.0.0.1\"]\nproxy_protocol = \"optional\"";
    assert_eq!(gateway(trusted), [""; 0]);
}

#[test]
fn the_action_follows_the_method_unless_it_is_given() {
    let mut text = service(
        "a",
        7000,
        "",
        &[("r", "GET /r"), ("w", "GET,DELETE /w"), ("a", "PUT /a")],
    );
    text.push_str("action = \"admin\"\n");
    let actions: Vec<_> = accept(&text).fleet.services[0]
        .routes
        .iter()
        .map(|route| route.action)
        .collect();
    assert_eq!(
        actions,
        [ActionClass::Read, ActionClass::Write, ActionClass::Admin]
    );
}

#[test]
fn a_service_added_at_the_end_does_not_move_the_others() {
    let routes = [("x", "GET /")];
    let (zebra, ant) = (
        service("zebra", 7000, "", &routes),
        service("ant", 7001, "", &routes),
    );
    let sidecar = |text: &str| -> SidecarListen {
        accept(text).fleet.sidecars[&"zebra".parse().unwrap()].clone()
    };
    assert_eq!(sidecar(&zebra), sidecar(&format!("{zebra}{ant}")));
}
