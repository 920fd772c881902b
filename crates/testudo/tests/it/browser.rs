//! A browser at the identity provider: cookies, forms and the authorization code flow, each step by hand.

use std::collections::BTreeMap;

use serde_json::Value;
use testudo_trust::{base64url, sha256};
use url::{Url, form_urlencoded};

use crate::{
    shop::{Shop, password},
    wire::Answer,
};

/// The client of the tests and where it takes answers.
pub const CLIENT: &str = "web";
pub const CALLBACK: &str = "https://app.example/callback";
/// A PKCE verifier (RFC 7636 section 4.1).
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// One browser with its cookies.
pub struct Browser<'a> {
    pub shop: &'a Shop,
    pub cookies: BTreeMap<String, String>,
}

impl<'a> Browser<'a> {
    pub fn new(shop: &'a Shop) -> Self {
        Self {
            shop,
            cookies: BTreeMap::new(),
        }
    }

    pub fn get(&mut self, path: &str) -> Answer {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
            self.cookie_field()
        );
        self.keep(self.shop.ask_server(&request))
    }

    pub fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.post_with(path, form, "Sec-Fetch-Site: same-origin\r\n")
    }

    pub fn post_with(&mut self, path: &str, form: &[(&str, &str)], fields: &str) -> Answer {
        let request = form_request(path, form, &format!("{}{fields}", self.cookie_field()));
        self.keep(self.shop.ask_server(&request))
    }

    fn cookie_field(&self) -> String {
        let pairs: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if pairs.is_empty() {
            String::new()
        } else {
            format!("Cookie: {}\r\n", pairs.join("; "))
        }
    }

    fn keep(&mut self, answer: Answer) -> Answer {
        for cookie in set_cookies(&answer) {
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if rest.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    /// Opens the login page; the hidden field of its form.
    pub fn open_login(&mut self) -> String {
        self.open_login_for(&[])
    }

    fn open_login_for(&mut self, changes: &[(&str, &str)]) -> String {
        let page = self.get(&authorize_path(changes));
        assert_eq!(page.status, 200, "{page:?}");
        flow_of(&page)
    }

    /// Logs in; the query of the redirect to the client.
    pub fn log_in(&mut self, username: &str) -> BTreeMap<String, String> {
        self.log_in_for(username, &[])
    }

    fn log_in_for(&mut self, username: &str, changes: &[(&str, &str)]) -> BTreeMap<String, String> {
        let flow = self.open_login_for(changes);
        let form = [
            ("flow", &*flow),
            ("username", username),
            ("password", &*password(username)),
        ];
        let answer = self.post("/login", &form);
        assert_eq!(answer.status, 303, "{answer:?}");
        query_of(answer.header("location").unwrap())
    }

    /// Logs in and exchanges the code.
    pub fn tokens(&mut self, username: &str) -> Value {
        self.tokens_for(username, &[])
    }

    /// As [`Self::tokens`], with parameters of the authorization request changed.
    pub fn tokens_for(&mut self, username: &str, changes: &[(&str, &str)]) -> Value {
        let code = self.log_in_for(username, changes)["code"].clone();
        let answer = token(self.shop, &code_form(&code));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}

/// The authorization request, with parameters changed: an empty value takes one away.
pub fn authorize_path(changes: &[(&str, &str)]) -> String {
    let challenge = base64url::encode(&sha256(VERIFIER.as_bytes()));
    let mut parameters = BTreeMap::from([
        ("client_id", CLIENT),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid profile"),
        ("state", "the-state"),
        ("nonce", "the-nonce"),
        ("code_challenge", &*challenge),
        ("code_challenge_method", "S256"),
    ]);
    for (name, value) in changes {
        parameters.insert(name, value);
    }
    parameters.retain(|_, value| !value.is_empty());
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish();
    format!("/oauth2/authorize?{query}")
}

/// The exchange of a code as the client makes it.
pub fn code_form(code: &str) -> Vec<(&str, &str)> {
    vec![
        ("grant_type", "authorization_code"),
        ("client_id", CLIENT),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
        ("code", code),
    ]
}

pub fn refresh_form(refresh_token: &str) -> Vec<(&str, &str)> {
    vec![
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT),
        ("refresh_token", refresh_token),
    ]
}

/// A request at the token endpoint.
pub fn token(shop: &Shop, form: &[(&str, &str)]) -> Answer {
    shop.ask_server(&form_request("/oauth2/token", form, ""))
}

pub fn form_request(path: &str, form: &[(&str, &str)], fields: &str) -> String {
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    )
}

/// The sealed request in a login page.
pub fn flow_of(page: &Answer) -> String {
    let (_, rest) = page
        .body
        .split_once("name=\"flow\" value=\"")
        .unwrap_or_else(|| panic!("{page:?}"));
    rest.split('"').next().unwrap().to_owned()
}

pub fn query_of(location: &str) -> BTreeMap<String, String> {
    Url::parse(location)
        .unwrap()
        .query_pairs()
        .into_owned()
        .collect()
}

/// All `Set-Cookie` fields.
pub fn set_cookies(answer: &Answer) -> Vec<String> {
    let lines = answer.head.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}
