//! Logging in from the command line: authorization code with PKCE (RFC 7636) as a native app (RFC 8252).

use serde::{Deserialize, Serialize};
use testudo_identity::paths;
use testudo_model::{Entropy, Redacted, random_bytes};
use testudo_trust::{base64url, constant_time_eq, sha256};
use url::form_urlencoded;

use super::{Answer, Connection, ConnectionError};
use crate::api::ADMIN_SCOPE;

/// The built-in public client of the command line.
pub const CLI_CLIENT: &str = "cli";
/// Redirect used when nobody listens because the form is sent from the terminal.
const TERMINAL_REDIRECT: &str = "http://127.0.0.1:1/callback";

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The exchange failed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The identity provider said no.
    #[error("the identity provider refused: {error}{}", .description.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// OAuth error code.
        error: String,
        /// Text for people.
        description: Option<String>,
    },
    /// Wrong name or password; the provider does not say which.
    #[error("wrong username or password, or too many attempts; wait a little and try again")]
    Credentials,
    /// The user has a second factor, which is not shown here.
    #[error("this user needs a second factor too; use the browser login")]
    SecondFactor,
    /// An answer that does not belong to this login.
    #[error("the answer does not belong to this login ({0}); start again")]
    Foreign(&'static str),
    /// The page was not what was expected.
    #[error("the login page was not understood; use the browser login")]
    Page,
}

/// Tokens of a login, as kept by the command line (file mode 0600).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenSet {
    /// JWT access token.
    pub access_token: String,
    /// Rotating refresh token.
    #[serde(default)]
    pub refresh_token: Option<String>,
    /// Seconds the access token lives, from its issue.
    pub expires_in: i64,
}

#[derive(Deserialize)]
struct OAuthError {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

/// A login under way: what must be kept until the code comes back.
#[derive(Debug)]
pub struct Login {
    verifier: Redacted<String>,
    state: String,
    redirect_uri: String,
    /// Path and query to open at the identity provider.
    pub authorize_path: String,
}

/// Begins a browser login that returns to `redirect_uri` (`http://127.0.0.1:<port>/callback`).
pub fn begin_browser_login(scope: &str, redirect_uri: &str, entropy: &dyn Entropy) -> Login {
    let verifier = base64url::encode(&random_bytes::<32>(entropy));
    let state = base64url::encode(&random_bytes::<16>(entropy));
    let challenge = base64url::encode(&sha256(verifier.as_bytes()));
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("response_type", "code")
        .append_pair("client_id", CLI_CLIENT)
        .append_pair("redirect_uri", redirect_uri)
        // What the command line may do with it, the user's roles say.
        .append_pair("scope", &format!("{scope} {ADMIN_SCOPE}"))
        .append_pair("state", &state)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256")
        .finish();
    Login {
        verifier: Redacted::new(verifier),
        state,
        redirect_uri: redirect_uri.to_owned(),
        authorize_path: format!("{}?{query}", paths::AUTHORIZE),
    }
}

impl Login {
    /// Whether the query of a redirect answers this login: it has its `state` (RFC 6749 section 10.12).
    pub fn is_answer(&self, query: &str) -> bool {
        let mut states = form_urlencoded::parse(query.as_bytes())
            .filter(|(name, _)| name == "state")
            .map(|(_, value)| value);
        let state = states.next().unwrap_or_default();
        states.next().is_none() && constant_time_eq(state.as_bytes(), self.state.as_bytes())
    }

    /// Finishes with the query of the redirect (`code=…&state=…&iss=…`).
    pub async fn finish(
        &self,
        connection: &Connection,
        query: &str,
    ) -> Result<TokenSet, LoginError> {
        if !self.is_answer(query) {
            return Err(LoginError::Foreign("its state differs"));
        }
        let (mut code, mut error, mut description) = (None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "code" => code = Some(value.into_owned()),
                "error" => error = Some(value.into_owned()),
                "error_description" => description = Some(value.into_owned()),
                _ => {}
            }
        }
        if let Some(error) = error {
            return Err(LoginError::Refused { error, description });
        }
        let code = code.ok_or(LoginError::Foreign("it has no code"))?;
        token_request(
            connection,
            &[
                ("grant_type", "authorization_code"),
                ("client_id", CLI_CLIENT),
                ("code", &code),
                ("redirect_uri", &self.redirect_uri),
                ("code_verifier", self.verifier.expose()),
            ],
        )
        .await
    }
}

/// Logs in without a browser: fetches the login page, sends its form and takes the code from the redirect.
pub async fn log_in_with_password(
    connection: &Connection,
    username: &str,
    password: &Redacted<String>,
    scope: &str,
    entropy: &dyn Entropy,
) -> Result<TokenSet, LoginError> {
    let login = begin_browser_login(scope, TERMINAL_REDIRECT, entropy);
    let page = connection
        .send(connection.request("GET", &login.authorize_path, None)?)
        .await?;
    if let Some(returned) = returned(&page) {
        // Refused before anybody was asked: a scope nobody knows, for instance.
        return login.finish(connection, returned).await;
    }
    if page.status != 200 {
        return Err(refusal(&page));
    }
    let form = LoginForm::read(&page).ok_or(LoginError::Page)?;
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(&form.hidden)
        .append_pair("username", username)
        .append_pair("password", password.expose())
        .finish();
    let action = &*form.action;
    let mut request = connection.request(
        "POST",
        action.strip_prefix(connection.base()).unwrap_or(action),
        Some(("application/x-www-form-urlencoded", body)),
    )?;
    if let Ok(cookie) = form.cookie.parse() {
        request.headers_mut().insert(http::header::COOKIE, cookie);
    }
    let answer = connection.send(request).await?;
    match returned(&answer) {
        Some(query) => login.finish(connection, query).await,
        None if answer.status >= 500 => Err(refusal(&answer)),
        // The password was right, and the page asks for more.
        None if answer.status == 200 => Err(LoginError::SecondFactor),
        None => Err(LoginError::Credentials),
    }
}

/// The query of the answer's redirect back to the terminal.
fn returned(answer: &Answer) -> Option<&str> {
    let location = answer.headers.get(http::header::LOCATION)?.to_str().ok()?;
    let query = location.strip_prefix(TERMINAL_REDIRECT)?;
    Some(query.trim_start_matches('?'))
}

/// Exchanges the refresh token for new tokens.
pub async fn refresh(connection: &Connection, refresh_token: &str) -> Result<TokenSet, LoginError> {
    let parameters = [
        ("grant_type", "refresh_token"),
        ("client_id", CLI_CLIENT),
        ("refresh_token", refresh_token),
    ];
    token_request(connection, &parameters).await
}

/// Revokes the refresh token with all that it gave (RFC 7009).
pub async fn revoke(connection: &Connection, refresh_token: &str) -> Result<(), LoginError> {
    let body = form_urlencoded::Serializer::new(String::new())
        .append_pair("client_id", CLI_CLIENT)
        .append_pair("token", refresh_token)
        .finish();
    let request = connection.request(
        "POST",
        paths::REVOKE,
        Some(("application/x-www-form-urlencoded", body)),
    )?;
    let answer = connection.send(request).await?;
    if answer.status == 200 {
        Ok(())
    } else {
        Err(refusal(&answer))
    }
}

async fn token_request(
    connection: &Connection,
    parameters: &[(&str, &str)],
) -> Result<TokenSet, LoginError> {
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish();
    let request = connection.request(
        "POST",
        paths::TOKEN,
        Some(("application/x-www-form-urlencoded", body)),
    )?;
    let answer = connection.send(request).await?;
    if answer.status != 200 {
        return Err(refusal(&answer));
    }
    Ok(answer.json()?)
}

fn refusal(answer: &Answer) -> LoginError {
    match serde_json::from_slice::<OAuthError>(&answer.body) {
        Ok(refused) => LoginError::Refused {
            error: refused.error,
            description: refused.error_description,
        },
        Err(_) => answer.strange().into(),
    }
}

/// The login page's form: our own page, so its shape is known (`console` keeps it).
struct LoginForm {
    action: String,
    hidden: Vec<(String, String)>,
    cookie: String,
}

impl LoginForm {
    fn read(page: &Answer) -> Option<Self> {
        let html = std::str::from_utf8(&page.body).ok()?;
        let form = html
            .split("<form")
            .find(|part| part.contains("name=\"password\""))?;
        let action = attribute(form.split('>').next()?, "action")?;
        let hidden = form
            .split("<input")
            .filter(|input| input.contains("type=\"hidden\""))
            .filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value")?)))
            .collect();
        let cookies = page.headers.get_all(http::header::SET_COOKIE).iter();
        let cookies = cookies.filter_map(|value| value.to_str().ok()?.split(';').next());
        Some(Self {
            action,
            hidden,
            cookie: cookies.collect::<Vec<_>>().join("; "),
        })
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!("{name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    Some(
        value
            .replace("&#38;", "&")
            .replace("&amp;", "&")
            .replace("&#34;", "\"")
            .replace("&#39;", "'"),
    )
}
