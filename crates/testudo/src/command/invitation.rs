//! What `testudo up` says at last: how to log in, and lines to try.

use std::path::Path;

use testudo_controlplane::{Exposure, Route, Service, ServiceProtocol, UserRequirement};
use testudo_runtime::fleet::Fleet;

const WITH_TOKEN: &str = "-H \"Authorization: Bearer $(testudo token)\"";

/// Lines to try with `fleet`, whose gateway listens on `port`.
pub fn invitation(fleet: &Fleet, ca: &Path, port: u16) -> String {
    let ca = ca.display();
    let at = format!("localhost:{port}");
    let user = fleet
        .users
        .first()
        .map_or("NAME", |user| user.username.as_str());
    let page = |needs_user| {
        let found = routes(fleet).find(|(_, route)| is_page(route, needs_user));
        found.map_or_else(|| "/".to_owned(), |(_, route)| route.path.to_string())
    };
    let (open, closed) = (page(false), page(true));
    let mut lines = vec![
        format!("curl --cacert {ca} https://{at}{open}"),
        format!("curl --cacert {ca} https://{at}{closed}"),
        format!("curl --cacert {ca} https://{at}{closed} {WITH_TOKEN}"),
    ];
    if let Some((_, method)) = routes(fleet).find(|(service, _)| is_grpc(service)) {
        let method = method.path.to_string();
        let method = method.trim_start_matches('/');
        lines.push(format!(
            "grpcurl -cacert {ca} {WITH_TOKEN} -proto FILE.proto {at} {method}"
        ));
    }
    if let Some((_, route)) = routes(fleet).find(|(_, route)| route.websocket) {
        lines.push(format!(
            "SSL_CERT_FILE={ca} websocat {WITH_TOKEN} 'wss://{at}{}'",
            route.path
        ));
    }
    format!(
        "\nLog in:\n  testudo login --username {user}\n\nTry:\n  {}\n\nCtrl-C stops the fleet.",
        lines.join("\n  ")
    )
}

/// What people reach.
fn routes(fleet: &Fleet) -> impl Iterator<Item = (&Service, &Route)> {
    let external = fleet
        .services
        .iter()
        .filter(|service| service.exposure == Exposure::External);
    external.flat_map(|service| service.routes.iter().map(move |route| (service, route)))
}

/// Whether the route can be asked for as it is, with or without a login.
fn is_page(route: &Route, needs_user: bool) -> bool {
    (route.user != UserRequirement::None) == needs_user
        && route.methods.iter().any(|method| method == "GET")
        && !route.path.as_str().contains('{')
}

fn is_grpc(service: &Service) -> bool {
    service.protocol == ServiceProtocol::H2c
}

#[cfg(test)]
mod tests {
    use testudo_runtime::{Environment, fleet};

    use super::*;

    #[test]
    fn the_bookshop_is_tried_in_every_protocol() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bookshop/fleet.toml");
        let fleet = fleet::load(&file, &Environment::empty(), &[])
            .unwrap()
            .fleet;
        insta::assert_snapshot!(invitation(&fleet, Path::new("ca.pem"), 8443), @r#"

        Log in:
          testudo login --username alice

        Try:
          curl --cacert ca.pem https://localhost:8443/books
          curl --cacert ca.pem https://localhost:8443/orders
          curl --cacert ca.pem https://localhost:8443/orders -H "Authorization: Bearer $(testudo token)"
          grpcurl -cacert ca.pem -H "Authorization: Bearer $(testudo token)" -proto FILE.proto localhost:8443 bookshop.pricing.v1.Pricing/Quote
          SSL_CERT_FILE=ca.pem websocat -H "Authorization: Bearer $(testudo token)" 'wss://localhost:8443/ticker/{id}'

        Ctrl-C stops the fleet.
        "#);
    }
}
