//! What the server says it answers, and whether it does: schemathesis reads the document and asks.

use std::{collections::BTreeSet, fs, process::Command};

use testudo_controlplane::api::operations;

use crate::{
    forge::get,
    installed::{left_out, tool},
    shop::Shop,
};

#[test]
fn the_document_has_every_operation_of_the_api_with_what_it_needs() {
    let shop = Shop::open("");
    let answer = shop.ask_server(&get("/openapi.json", ""));
    assert_eq!(answer.status, 200, "{answer:?}");
    let document = answer.json();
    assert_eq!(document["servers"][0]["url"], shop.fleet.ready["server"]);
    for operation in operations() {
        let method = operation.method.as_str().to_lowercase();
        let described = &document["paths"][operation.path][&method];
        assert_eq!(
            described["security"][0]["bearer"].as_array().map(Vec::len),
            Some(0)
        );
    }
    let open: BTreeSet<&str> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, operations)| {
            let mut operations = operations.as_object().unwrap().values();
            operations.any(|operation| operation["security"].as_array().unwrap().is_empty())
        })
        .map(|(path, _)| path.as_str())
        .collect();
    // Everything else is the identity provider's, which decides by what comes with a request.
    assert!(
        open.iter()
            .all(|path| !path.starts_with("/api/") && !path.starts_with("/scim/"))
    );
    for path in [
        "/oauth2/token",
        "/oauth2/authorize",
        "/login",
        "/account",
        "/openapi.json",
    ] {
        assert!(open.contains(path), "{path}");
    }
}

#[test]
fn schemathesis_finds_no_crash_and_no_answer_that_is_not_described() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let server = shop.fleet.ready["server"].as_str().unwrap();
    let ca = shop
        .fleet
        .folder
        .path()
        .join(shop.fleet.ready["ca"].as_str().unwrap());
    let run = Command::new(tool(&[".tools/venv/bin/schemathesis"]))
        .current_dir(shop.fleet.folder.path())
        .args(["run", &format!("{server}/openapi.json")])
        .args(["--header", &format!("Authorization: Bearer {}", shop.token("root"))])
        .arg(format!("--tls-verify={}", ca.display()))
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "5"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"])
        // It waits for events.
        .args(["--exclude-path", "/api/v1/audit/tail"])
        .args(["--seed", "1", "--workers", "1", "--no-color", "--continue-on-failure"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    let log = fs::read_to_string(shop.fleet.folder.path().join("log")).unwrap();
    assert!(run.status.success(), "{said}\n{errors}\n{log}");
    // Nothing it did was the end of the fleet.
    assert_eq!(shop.ask_server(&get("/oauth2/jwks", "")).status, 200);
}
