//! The two cookies. `__Host-` keeps subdomains and plain HTTP from setting them (RFC 6265bis section 4.1.3.2).

use http::{HeaderMap, HeaderValue, header};
use testudo_model::Redacted;

/// The login session.
pub const SESSION: &str = "__Host-testudo-session";
/// Binds a login form to the browser it was given to.
pub const BROWSER: &str = "__Host-testudo-browser";

/// The value of a cookie; `None` if it is missing or there are two of that name (cookie tossing).
pub fn read<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(found, _)| *found == name)
        .map(|(_, value)| value);
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Sets a cookie until the browser closes, or for `max_age_seconds`.
pub fn set(
    headers: &mut HeaderMap,
    name: &str,
    value: &Redacted<String>,
    max_age_seconds: Option<u64>,
) {
    let max_age = max_age_seconds
        .map(|seconds| format!("; Max-Age={seconds}"))
        .unwrap_or_default();
    let field = format!(
        "{name}={}; Path=/; Secure; HttpOnly; SameSite=Lax{max_age}",
        value.expose()
    );
    if let Ok(mut field) = HeaderValue::from_str(&field) {
        field.set_sensitive(true);
        headers.append(header::SET_COOKIE, field);
    }
}

/// Takes a cookie away.
pub fn clear(headers: &mut HeaderMap, name: &str) {
    set(headers, name, &Redacted::new(String::new()), Some(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cookies_of_one_name_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; b=2"));
        assert_eq!(read(&headers, "a"), Some("1"));
        headers.append(header::COOKIE, HeaderValue::from_static("a=3"));
        assert_eq!(read(&headers, "a"), None);
        assert_eq!(read(&headers, "b"), Some("2"));
    }
}
