//! Header fields at the border: what may not come in, what ends at each hop, what the fleet vouches for.
//!
//! CGI, WSGI and many frameworks read `X_User_Id` and `X.User.Id` as `X-User-Id`, so a name is judged by what
//! it could be taken for, not by how it is spelled.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields that only a proxy of the fleet may set: identity, source, and whatever rewrites the request behind
/// the decision's back. In canonical spelling: lower case, `-`.
const RESERVED: &[&str] = &[
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "front-end-https",
    "proxy",
    "true-client-ip",
    "txn-token",
    "x-calling-service",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-rewrite-url",
    "x-url-scheme",
    "x-user-groups",
    "x-user-id",
    "x-user-name",
    "x-user-roles",
    "x-user-scopes",
];
/// The same for whole families.
const RESERVED_PREFIXES: &[&str] = &["testudo-", "x-forwarded-", "x-testudo-"];
/// Fields that mean something to whoever reads the message. An alias of one (`content_length`) is dropped;
/// the field itself is handled where it belongs.
const MEANINGFUL: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "proxy-authorization",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
    "x-request-id",
];
/// Names of the fields a sidecar sets for its service.
pub(crate) const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");
pub(crate) const X_USER_NAME: HeaderName = HeaderName::from_static("x-user-name");
pub(crate) const X_USER_GROUPS: HeaderName = HeaderName::from_static("x-user-groups");
pub(crate) const X_USER_ROLES: HeaderName = HeaderName::from_static("x-user-roles");
pub(crate) const X_USER_SCOPES: HeaderName = HeaderName::from_static("x-user-scopes");
pub(crate) const X_CALLING_SERVICE: HeaderName = HeaderName::from_static("x-calling-service");
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const TXN_TOKEN: HeaderName = HeaderName::from_static("txn-token");
pub(crate) const TESTUDO_DECISION: HeaderName = HeaderName::from_static("testudo-decision");

/// Removes from a request whatever may not cross this hop: hop-by-hop fields, fields that `Connection` names,
/// reserved fields and aliases.
pub(crate) fn sanitise_request(headers: &mut HeaderMap) {
    end_hop(headers, is_refused);
}

/// Removes from a response what ends at this hop, and the decision id if it is not from a proxy of ours.
pub(crate) fn sanitise_response(headers: &mut HeaderMap, from_proxy: bool) {
    end_hop(headers, |_| false);
    if !from_proxy {
        headers.remove(TESTUDO_DECISION);
        headers.remove(TXN_TOKEN);
    }
}

/// Sets `name` to `value`, once; drops it when the value cannot be a field value.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => drop(headers.remove(name)),
    }
}

/// A value that no other message will have. HTTP/2 compresses fields by remembering them (RFC 7541): values that never
/// come again would only push out those that do, among them the transaction token.
pub(crate) fn passing(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// Sets `name` to the comma-separated `values`; removes it if there are none.
pub(crate) fn set_list<'a>(
    headers: &mut HeaderMap,
    name: HeaderName,
    values: impl Iterator<Item = &'a str>,
) {
    let list = values.collect::<Vec<_>>().join(",");
    if list.is_empty() {
        headers.remove(name);
    } else {
        set(headers, name, &list);
    }
}

/// Removes what ends at this hop, and what `is_refused` as well. One pass over the fields there are: most messages
/// have none of all those that there could be.
fn end_hop(headers: &mut HeaderMap, is_refused: impl Fn(&str) -> bool) {
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let ending: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            is_hop_by_hop(name.as_str()) || is_refused(name.as_str()) || nominated.contains(name)
        })
        .cloned()
        .collect();
    for name in ending {
        headers.remove(name);
    }
}

/// Fields of one hop (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "expect"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn is_refused(name: &str) -> bool {
    if !name.contains(['_', '.']) {
        return is_reserved(name);
    }
    let canonical = name.replace(['_', '.'], "-");
    is_reserved(&canonical) || MEANINGFUL.binary_search(&canonical.as_str()).is_ok()
}

fn is_reserved(name: &str) -> bool {
    RESERVED.binary_search(&name).is_ok()
        || RESERVED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_of(fields: &[(&str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        sanitise_request(&mut headers);
        headers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn tables_are_sorted_for_the_search() {
        assert!(RESERVED.is_sorted() && MEANINGFUL.is_sorted());
    }

    #[test]
    fn identity_fields_from_outside_never_pass_however_spelled() {
        for spelling in [
            "X-User-Id",
            "x_user_id",
            "X.User.Id",
            "X-USER-ID",
            "x-user_id",
            "x.user-id",
            "X_User.Id",
            "x-user-roles",
            "X_USER_ROLES",
            "x-calling-service",
            "X_Calling_Service",
            "Txn-Token",
            "txn_token",
            "Testudo-Decision",
            "testudo_anything",
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-Forwarded-Prefix",
            "x.forwarded.host",
            "Forwarded",
            "X-Real-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "X-Client-IP",
            "X-Cluster-Client-IP",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "Proxy",
            "content_length",
            "transfer.encoding",
            "x_request_id",
            "x-original-forwarded-for",
        ] {
            assert_eq!(
                left_of(&[(spelling, "1"), (spelling, "2"), ("accept", "*/*")]),
                ["accept"],
                "{spelling}"
            );
        }
    }

    #[test]
    fn ordinary_fields_pass() {
        let fields = [
            ("accept", "*/*"),
            ("cookie", "a=1"),
            ("x-user-agent", "grpc"),
            ("my_field.name", "1"),
        ];
        assert_eq!(
            left_of(&fields),
            ["accept", "cookie", "x-user-agent", "my_field.name"]
        );
    }

    #[test]
    fn fields_named_in_connection_end_here() {
        let fields = [
            ("connection", "close, X-Secret ,authorization"),
            ("x-secret", "1"),
            ("authorization", "Bearer x"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("accept", "*/*"),
        ];
        assert_eq!(left_of(&fields), ["accept"]);
    }

    #[test]
    fn a_service_cannot_claim_a_decision() {
        let mut headers = HeaderMap::new();
        set(&mut headers, TESTUDO_DECISION, "dec_0");
        let mut from_proxy = headers.clone();
        sanitise_response(&mut headers, false);
        sanitise_response(&mut from_proxy, true);
        assert!(headers.is_empty() && !from_proxy.is_empty());
    }

    #[test]
    fn an_impossible_value_removes_the_field_instead_of_leaving_the_old_one() {
        let mut headers = HeaderMap::new();
        set(&mut headers, X_USER_NAME, "old");
        set(&mut headers, X_USER_NAME, "new\r\nx: y");
        assert!(headers.is_empty());
    }
}
