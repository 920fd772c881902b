//! Tenants by path: what is asked for below `/tenants/{name}` is answered as if there were that tenant alone.
//!
//! Here is all that knows of the way there. A tenant's own routes are those of the fleet, and so are its cookies and its
//! redirects to itself: on their way in and out they are translated, as a reverse proxy does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Uri, header, uri::PathAndQuery};
use testudo_model::TenantName;
use tower::ServiceExt;

use super::{Refusal, cookies};
use crate::{
    plane::Plane,
    tenants::{OpenTenant, TENANTS_PATH},
};

/// What RFC 8414 section 3.1, and SSF 1.0 section 7.2.1 with it, puts before the path of an issuer.
const WELL_KNOWN: [&str; 3] = [
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
    "/.well-known/ssf-configuration",
];

/// Tenants whose routes are kept: they have about 150 KB, and making them takes some milliseconds.
const MAX_MADE: usize = 100;

/// Makes the routes of a tenant.
type Make = dyn Fn(&Arc<Plane>) -> Router + Send + Sync;

/// The routes of the tenants, made when they are first asked for.
pub struct TenantRoutes {
    plane: Arc<Plane>,
    make: Box<Make>,
    made: Mutex<BTreeMap<TenantName, (Arc<OpenTenant>, Router)>>,
}

impl TenantRoutes {
    /// The routes of a tenant are what `make` makes for the plane as that tenant has it.
    pub fn new(
        plane: &Arc<Plane>,
        make: impl Fn(&Arc<Plane>) -> Router + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            plane: Arc::clone(plane),
            make: Box::new(make),
            made: Mutex::default(),
        })
    }

    fn of(&self, name: &TenantName) -> Option<Router> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = self.plane.tenants.of(name) else {
            made.remove(name);
            return None;
        };
        if let Some((known, router)) = made.get(name)
            && Arc::ptr_eq(known, &open)
        {
            return Some(router.clone());
        }
        if made.len() >= MAX_MADE {
            made.clear();
        }
        let router = (self.make)(&Arc::new(self.plane.of_tenant(name, &open)));
        made.insert(name.clone(), (open, router.clone()));
        Some(router)
    }
}

/// Leads requests for a tenant there.
pub async fn enter(
    State(routes): State<Arc<TenantRoutes>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some((name, inner)) = split(request.uri().path()) else {
        return next.run(request).await;
    };
    let tenant = name.parse::<TenantName>().ok();
    let Some((tenant, router)) = tenant.and_then(|name| Some((name.clone(), routes.of(&name)?)))
    else {
        return Refusal::not_found("tenant").into_response();
    };
    let Some(uri) = moved(request.uri(), inner) else {
        return Refusal::bad_request("the path is not one").into_response();
    };
    *request.uri_mut() = uri;
    let cookies = request.headers().get_all(header::COOKIE).iter();
    let cookies: Vec<_> = cookies
        .filter_map(|field| own_cookies(&tenant, field))
        .collect();
    request.headers_mut().remove(header::COOKIE);
    for field in cookies {
        request.headers_mut().append(header::COOKIE, field);
    }
    let Ok(mut response) = router.oneshot(request).await;
    translate(&tenant, response.headers_mut());
    response
}

/// The tenant's name in a path, and the path as the tenant knows it.
fn split(path: &str) -> Option<(&str, &str)> {
    for well_known in WELL_KNOWN {
        let rest = path.strip_prefix(well_known);
        if let Some(name) = rest.and_then(|rest| rest.strip_prefix(TENANTS_PATH)) {
            return path.get(..well_known.len()).map(|inner| (name, inner));
        }
    }
    let rest = path.strip_prefix(TENANTS_PATH)?;
    match rest.find('/') {
        Some(end) => Some(rest.split_at(end)),
        None => Some((rest, "/")),
    }
}

fn moved(uri: &Uri, path: &str) -> Option<Uri> {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

/// The tenant's cookies of a field, as it knows them. Those of the fleet and of other tenants are not its.
fn own_cookies(tenant: &TenantName, field: &HeaderValue) -> Option<HeaderValue> {
    let text = field.to_str().ok()?;
    let own = text.split(';').filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        let known = [cookies::SESSION, cookies::BROWSER];
        let inner = known
            .into_iter()
            .find(|inner| name == outer_name(tenant, inner))?;
        Some(format!("{inner}={value}"))
    });
    let own: Vec<_> = own.collect();
    let mut field = HeaderValue::from_str(&own.join("; ")).ok()?;
    field.set_sensitive(true);
    Some(field)
}

/// `__Host-` cookies are for the whole host: the name says which tenant's they are.
fn outer_name(tenant: &TenantName, name: &str) -> String {
    format!("{name}-{tenant}")
}

fn translate(tenant: &TenantName, headers: &mut HeaderMap) {
    let inside = |location: &str| location.starts_with('/') && !location.starts_with("//");
    let location = headers.get(header::LOCATION);
    let location = location.and_then(|field| field.to_str().ok());
    if let Some(location) = location.filter(|location| inside(location))
        && let Ok(field) = HeaderValue::from_str(&format!("{TENANTS_PATH}{tenant}{location}"))
    {
        headers.insert(header::LOCATION, field);
    }
    let set: Vec<_> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for field in set {
        headers.append(
            header::SET_COOKIE,
            outer_cookie(tenant, &field).unwrap_or(field),
        );
    }
}

fn outer_cookie(tenant: &TenantName, field: &HeaderValue) -> Option<HeaderValue> {
    let (name, rest) = field.to_str().ok()?.split_once('=')?;
    let mut outer = HeaderValue::from_str(&format!("{}={rest}", outer_name(tenant, name))).ok()?;
    outer.set_sensitive(true);
    Some(outer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_taken_out_of_the_path_wherever_standards_put_it() {
        for (path, expected) in [
            (
                "/tenants/acme/oauth2/token",
                Some(("acme", "/oauth2/token")),
            ),
            ("/tenants/acme", Some(("acme", "/"))),
            ("/tenants/", Some(("", "/"))),
            (
                "/.well-known/oauth-authorization-server/tenants/acme",
                Some(("acme", "/.well-known/oauth-authorization-server")),
            ),
            (
                "/.well-known/ssf-configuration/tenants/acme",
                Some(("acme", "/.well-known/ssf-configuration")),
            ),
            ("/.well-known/oauth-authorization-server", None),
            ("/tenantsacme/x", None),
            ("/api/v1/tenants/acme", None),
        ] {
            assert_eq!(split(path), expected, "{path}");
        }
    }

    #[test]
    fn a_tenant_sees_its_own_cookies_and_sets_no_others() {
        let acme: TenantName = "acme".parse().unwrap();
        let sent = HeaderValue::from_static(
            "__Host-testudo-session=fleet; __Host-testudo-session-acme=own; __Host-testudo-session-globex=theirs",
        );
        assert_eq!(
            own_cookies(&acme, &sent).unwrap(),
            "__Host-testudo-session=own"
        );
        let mut headers = HeaderMap::new();
        cookies::clear(&mut headers, cookies::BROWSER);
        headers.insert(
            header::LOCATION,
            HeaderValue::from_static("/consent?flow=x"),
        );
        translate(&acme, &mut headers);
        let cookie = headers.get(header::SET_COOKIE).unwrap().to_str().unwrap();
        assert!(
            cookie.starts_with("__Host-testudo-browser-acme=;"),
            "{cookie}"
        );
        assert_eq!(
            headers.get(header::LOCATION).unwrap(),
            "/tenants/acme/consent?flow=x"
        );
        for elsewhere in ["https://app.example/cb", "//evil.example/"] {
            headers.insert(header::LOCATION, HeaderValue::from_static(elsewhere));
            translate(&acme, &mut headers);
            assert_eq!(headers.get(header::LOCATION).unwrap(), elsewhere);
        }
    }
}
