//! Defaults, file, environment, flags: the later one wins, and one can see which did.

use testudo_runtime::{Environment, fleet};

use crate::support::{accept, bundle, flag};

const TEXT: &str = r#"trust_domain = "b.example"
[listen]
gateway = 8000
[services.stock-keeper]
upstream = "127.0.0.1:7000"
[users."a@b.example"]
password = { hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA" }
[services.stock-keeper.run]
command = ["keeper"]
env = { API_KEY = "hunter2" }
"#;

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file_and_that_over_the_default() {
    let mut bundle = bundle(
        TEXT,
        &[("policies/a.cedar", "")],
        &[
            ("TESTUDO__LISTEN__SERVER", "9000"),
            ("TESTUDO__LISTEN__GRPC", "127.0.0.2:9001"),
            (
                "TESTUDO__SERVICES__STOCK_KEEPER__UPSTREAM",
                "127.0.0.1:7777",
            ),
            ("TESTUDO__PUBLIC_NAMES", r#"["shop.example"]"#),
            ("UNRELATED", "x"),
        ],
    );
    bundle.overrides = vec![
        flag("listen.grpc", "9002"),
        flag("users.\"a@b.example\".disabled", "true"),
    ];
    let loaded = bundle.load().unwrap_or_else(|errors| panic!("{errors}"));
    let fleet = loaded.fleet;
    assert_eq!(fleet.listen.redirect.port(), 8080);
    assert_eq!(fleet.listen.gateway.port(), 8000);
    assert_eq!(fleet.listen.server.port(), 9000);
    assert_eq!(fleet.listen.grpc.to_string(), "127.0.0.1:9002");
    assert_eq!(fleet.services[0].upstream.port(), 7777);
    assert_eq!(fleet.public_names, ["shop.example"]);
    assert!(fleet.users[0].disabled);
    assert!(!loaded.bundle.environment.contains_key("UNRELATED"));

    let mut shown: Vec<String> = loaded
        .origins
        .settings()
        .filter(|setting| {
            !setting.key.starts_with("observability") && !setting.key.starts_with("gateway")
        })
        .map(|setting| format!("{} = {}  # {}", setting.key, setting.value, setting.origin))
        .collect();
    shown.sort();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    data.directory = "data"  # default
    listen.gateway = "127.0.0.1:8000"  # fleet.toml:3
    listen.grpc = "127.0.0.1:9002"  # flag --set listen.grpc
    listen.ops = "127.0.0.1:15020"  # default
    listen.redirect = "127.0.0.1:8080"  # default
    listen.server = "127.0.0.1:9000"  # environment TESTUDO__LISTEN__SERVER
    listen.sidecar_inbound = "127.0.0.1:15106"  # default
    listen.sidecar_outbound = "127.0.0.1:15006"  # default
    outbound.allow_http = false  # default
    outbound.allow_networks = []  # default
    passkeys.allowed_aaguids = []  # default
    passkeys.attestation = "none"  # default
    passwords.min_score = 3  # default
    policy.directory = "policies"  # default
    public_names = ["shop.example"]  # environment TESTUDO__PUBLIC_NAMES
    roles = []  # default
    services.stock-keeper.allow_remote_upstream = false  # default
    services.stock-keeper.api_keys = false  # default
    services.stock-keeper.environment = "production"  # default
    services.stock-keeper.exposure = "internal"  # default
    services.stock-keeper.groups = []  # default
    services.stock-keeper.hosts = []  # default
    services.stock-keeper.ip.allow = []  # default
    services.stock-keeper.ip.deny = []  # default
    services.stock-keeper.limit = []  # default
    services.stock-keeper.protocol = "http1"  # default
    services.stock-keeper.routes = []  # default
    services.stock-keeper.run.command = ["keeper"]  # fleet.toml:9
    services.stock-keeper.run.env.API_KEY = "<masked>"  # fleet.toml:10
    services.stock-keeper.tenants = ["default"]  # default
    services.stock-keeper.upstream = "127.0.0.1:7777"  # environment TESTUDO__SERVICES__STOCK_KEEPER__UPSTREAM
    transfer.grace = "30s"  # default
    transfer.min_per_second = "240B"  # default
    trust_domain = "b.example"  # fleet.toml:1
    users."a@b.example".clearance = 0  # default
    users."a@b.example".disabled = true  # flag --set users."a@b.example".disabled
    users."a@b.example".groups = []  # default
    users."a@b.example".password.hash = "<masked>"  # fleet.toml:7
    users."a@b.example".roles = []  # default
    "#);
}

#[test]
fn a_misspelt_variable_is_an_error_and_not_ignored() {
    let text = "trust_domain = \"b.example\"\n[services]\n";
    let policies = [("policies/a.cedar", "")];
    let errors = bundle(text, &policies, &[("TESTUDO__LISTEN__GATWAY", "1")])
        .load()
        .unwrap_err();
    insta::assert_snapshot!(errors, @r"
    error[fleet.unknown_key]: unknown key `gatway`
     --> environment variable TESTUDO__LISTEN__GATWAY
      = help: did you mean `gateway`?

    1 error
    ");
}

#[test]
fn a_flag_that_names_no_key_is_refused() {
    let text = "trust_domain = \"b.example\"\n[services]\n";
    let mut bundle = bundle(text, &[("policies/a.cedar", "")], &[]);
    bundle.overrides = vec![
        flag("listen gateway", "1"),
        flag("trust_domain.x", "1"),
        flag("listen", "["),
    ];
    let errors = bundle.load().unwrap_err();
    let codes: Vec<_> = errors.problems.iter().map(|problem| problem.code).collect();
    assert_eq!(
        codes,
        ["fleet.invalid_key", "fleet.invalid_key", "fleet.syntax"]
    );
}

#[test]
fn port_zero_for_sidecars_means_any_port_for_each() {
    let text = "[listen]\nsidecar_inbound = 0\nsidecar_outbound = 0\n[services.a]\nupstream = \"127.0.0.1:1\"\n";
    let loaded = accept(text);
    let sidecar = &loaded.fleet.sidecars[&"a".parse().unwrap()];
    assert_eq!((sidecar.inbound.port(), sidecar.outbound.port()), (0, 0));
}

#[test]
fn automatic_ports_go_around_those_that_are_taken() {
    let text = r#"
        [listen]
        ops = 15006
        [services.z]
        upstream = "127.0.0.1:15007"
        [services.a]
        upstream = "127.0.0.1:1"
        sidecar = { inbound = "0.0.0.0:15106" }
    "#;
    let sidecars = accept(text).fleet.sidecars;
    assert_eq!(
        sidecars[&"z".parse().unwrap()].inbound.to_string(),
        "127.0.0.1:15107"
    );
    assert_eq!(
        sidecars[&"z".parse().unwrap()].outbound.to_string(),
        "127.0.0.1:15008"
    );
    assert_eq!(
        sidecars[&"a".parse().unwrap()].inbound.to_string(),
        "0.0.0.0:15106"
    );
    assert_eq!(
        sidecars[&"a".parse().unwrap()].outbound.to_string(),
        "127.0.0.1:15009"
    );
}

#[test]
fn a_file_on_disk_is_read_with_what_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "fleet.toml",
        "trust_domain = \"b.example\"\n[users.a]\npassword = { file = \"secrets/a\" }\n",
    );
    write("secrets/a", "a secret with spaces \r\n");
    write("policies/b.cedar", "// b");
    write("policies/a.cedar", "// a");
    write("policies/a.test.toml", "");
    write("policies/notes.md", "not a policy");
    let loaded = fleet::load(
        &folder.path().join("fleet.toml"),
        &Environment::empty(),
        &[],
    )
    .unwrap();
    let names: Vec<_> = loaded
        .fleet
        .policies
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(names, ["a.cedar", "b.cedar"]);
    assert_eq!(loaded.fleet.policy_tests[0].name, "a.test.toml");
    assert_eq!(loaded.fleet.data, folder.path().join("data"));
    let fleet::SeedCredential::Secret(password) = &loaded.fleet.users[0].password else {
        panic!("no secret")
    };
    assert_eq!(password.expose(), "a secret with spaces ");
    assert!(!loaded.bundle.files.contains_key("policies/notes.md"));
}

#[test]
fn policies_in_folders_of_the_policy_folder_count_too() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    for name in [
        "all.cedar",
        "shop/orders/create.cedar",
        "shop/orders.cedar",
        "shop/shop.test.toml",
        ".git/old.cedar",
    ] {
        let path = policies.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let file = folder.path().join("fleet.toml");
    std::fs::write(&file, "trust_domain = \"b.example\"\n").unwrap();
    let load = || fleet::load(&file, &Environment::empty(), &[]);
    let names = |files: &[testudo_model::snapshot::PolicyFile]| -> Vec<String> {
        files.iter().map(|file| file.name.clone()).collect()
    };
    let loaded = load().unwrap();
    let found = ["all.cedar", "shop/orders.cedar", "shop/orders/create.cedar"];
    assert_eq!(names(&loaded.fleet.policies), found);
    assert_eq!(names(&loaded.fleet.policy_tests), ["shop/shop.test.toml"]);
    // What is sent is what was read.
    let sent = loaded.bundle.load().unwrap();
    assert_eq!(names(&sent.fleet.policies), found);

    // A link that leads back ends in an error, not in silence.
    std::os::unix::fs::symlink(&policies, policies.join("shop/again")).unwrap();
    let errors = load().unwrap_err().to_string();
    assert!(errors.contains("nested more than"), "{errors}");
}
