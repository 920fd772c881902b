//! What the fleet of the bench declares: two services, what the measured requests are about, and as much beside it as is asked
//! for.

use std::net::SocketAddr;

const GROUPS: usize = 10;
const EXTRA_ROUTES: usize = 100;

/// What is declared beside what the measured requests are about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extra {
    /// Policies about other groups and routes.
    pub(crate) policies: usize,
    /// Routes of the called service.
    pub(crate) routes: usize,
    /// Services.
    pub(crate) services: usize,
    /// Whether limits count requests. None refuses any.
    pub(crate) limits: bool,
}

impl Extra {
    /// What a fleet starts with.
    pub(crate) const START: Self = Self {
        policies: 0,
        routes: EXTRA_ROUTES,
        services: 0,
        limits: true,
    };
}

/// The fleet file.
pub(crate) fn fleet_file(upstream: SocketAddr, extra: Extra) -> String {
    let limit = |per: &str| {
        if extra.limits {
            format!(r#"limit = [{{ per = "{per}", rate = "1000000/s", burst = 1000000 }}]"#)
        } else {
            String::new()
        }
    };
    let mut text = format!(
        r#"trust_domain = "bench.example"

[gateway]
{by_address}

[services.echo]
upstream = "{upstream}"
exposure = "external"
{by_service}

[[services.echo.routes]]
operation = "echo.open"
match = "GET /open"
user = "none"

[[services.echo.routes]]
operation = "echo.checked"
match = "GET /checked"
scopes = ["bench:read"]
{by_user}

[services.caller]
upstream = "127.0.0.2:{port}"

[[services.caller.routes]]
operation = "caller.unused"
match = "GET /unused"

[service_accounts.backend]
secret = {{ file = "secret" }}

[users.bench]
groups = ["callers"]
password = {{ file = "password" }}

[users.stranger]
password = {{ file = "password" }}

[groups]
callers = []
"#,
        by_address = limit("ip"),
        by_service = limit("service"),
        by_user = limit("user"),
        port = upstream.port(),
    );
    for group in 0..GROUPS {
        text.push_str(&format!("group-{group} = []\n"));
    }
    text.push_str(&extra_declarations(upstream, extra));
    text
}

/// Routes and services that no measured request is about.
fn extra_declarations(upstream: SocketAddr, extra: Extra) -> String {
    let mut text = String::new();
    for route in 0..extra.routes {
        text.push_str(&format!(
            "\n[[services.echo.routes]]\noperation = \"echo.extra-{route}\"\nmatch = \"GET /extra/{route}\"\n"
        ));
    }
    for service in 0..extra.services {
        text.push_str(&format!(
            "\n[services.extra-{service}]\nupstream = \"127.0.0.3:{port}\"\nexposure = \"external\"\n\
             [[services.extra-{service}.routes]]\noperation = \"extra.read\"\nmatch = \"GET /extra-{service}/{{id}}\"\n",
            port = upstream.port(),
        ));
    }
    text
}

/// What the measured requests are allowed by.
pub(crate) const POLICIES: &str = r#"@id("caller-reaches-echo")
permit (principal == Fleet::Service::"caller", action == Fleet::Action::"connect", resource == Fleet::Service::"echo");

@id("caller-calls-echo")
permit (principal == Fleet::Service::"caller", action == Fleet::Action::"invoke", resource == Fleet::Route::"echo:echo.open");

@id("callers-read")
permit (principal in Fleet::Group::"callers", action == Fleet::Action::"read", resource == Fleet::Route::"echo:echo.checked");
"#;

/// A policy about somebody else and something else, as most policies of a large fleet are.
pub(crate) fn extra_policy(number: usize) -> String {
    let (group, route) = (number % GROUPS, number % EXTRA_ROUTES);
    format!(
        "@id(\"extra-{number}\")\npermit (principal in Fleet::Group::\"group-{group}\", \
         action == Fleet::Action::\"read\", resource == Fleet::Route::\"echo:echo.extra-{route}\")\n\
         when {{ principal.clearance >= {} }};\n\n",
        number % 100
    )
}
