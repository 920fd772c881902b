//! An application built on the crate `openidconnect`; what it found is a line of JSON for `strict_clients/languages.rs`.
//!
//!     client <JSON with issuer, client_id, client_secret, redirect_uri>

use std::{
    collections::HashMap,
    error::Error,
    io::{self, Read},
};

use openidconnect::{
    AccessTokenHash, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest,
    HttpResponse, IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier,
    RedirectUrl, RequestTokenError, Scope, TokenResponse,
    core::{
        CoreAuthPrompt, CoreAuthenticationFlow, CoreClient, CoreErrorResponseType,
        CoreProviderMetadata, CoreTokenResponse, CoreUserInfoClaims,
    },
    http,
};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Told {
    issuer: String,
    client_id: String,
    client_secret: String,
    redirect_uri: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let told: Told = serde_json::from_str(&std::env::args().next_back().unwrap_or_default())?;
    let agent = ureq::AgentBuilder::new().redirects(0).build();
    let http = |request: HttpRequest| send(&agent, request);
    let metadata = CoreProviderMetadata::discover(&IssuerUrl::new(told.issuer.clone())?, &http)?;
    let client = |id: &str| -> Result<_, Box<dyn Error>> {
        let secret = ClientSecret::new(told.client_secret.clone());
        let known = CoreClient::from_provider_metadata(
            metadata.clone(),
            ClientId::new(id.to_owned()),
            Some(secret),
        );
        Ok(known.set_redirect_uri(RedirectUrl::new(told.redirect_uri.clone())?))
    };
    let (ours, another) = (client(&told.client_id)?, client("somebody-else")?);

    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let (address, state, nonce) = ours
        .authorize_url(
            CoreAuthenticationFlow::AuthorizationCode,
            CsrfToken::new_random,
            Nonce::new_random,
        )
        .add_scope(Scope::new("profile".to_owned()))
        .add_scope(Scope::new("offline_access".to_owned()))
        .add_prompt(CoreAuthPrompt::Consent)
        .set_pkce_challenge(challenge)
        .url();
    let answer = come_back(address.as_str())?;
    assert_eq!(answer.get("state"), Some(state.secret()));
    assert_eq!(answer.get("iss"), Some(&told.issuer));
    let redeem = || {
        let code = AuthorizationCode::new(answer.get("code").cloned().unwrap_or_default());
        let verifier = PkceCodeVerifier::new(verifier.secret().clone());
        Ok::<_, Box<dyn Error>>(
            ours.exchange_code(code)?
                .set_pkce_verifier(verifier)
                .request(&http),
        )
    };
    let tokens: CoreTokenResponse = redeem()??;

    let id_token = tokens.id_token().ok_or("no ID token")?;
    let checks = ours.id_token_verifier();
    let claims = id_token.claims(&checks, &nonce)?;
    let hash = AccessTokenHash::from_token(
        tokens.access_token(),
        id_token.signing_alg()?,
        id_token.signing_key(&checks)?,
    )?;
    let bound = claims.access_token_hash() == Some(&hash);
    let elsewhere = id_token
        .claims(&another.id_token_verifier(), &nonce)
        .is_err();
    let mixed_up = id_token.claims(&checks, &Nonce::new_random()).is_err();

    let subject = claims.subject().clone();
    let info: CoreUserInfoClaims = ours
        .user_info(tokens.access_token().clone(), Some(subject))?
        .request(&http)?;
    let refresh_token = tokens.refresh_token().ok_or("no refresh token")?;
    let refreshed: CoreTokenResponse =
        ours.exchange_refresh_token(refresh_token)?.request(&http)?;
    let again = code(redeem()?);
    let newest = refreshed.refresh_token().unwrap_or(refresh_token);
    let after = code(ours.exchange_refresh_token(newest)?.request(&http));
    let name = info.preferred_username().map(|name| name.to_string());
    println!(
        "{}",
        json!({ "name": name, "bound": bound, "elsewhere": elsewhere, "mixed_up": mixed_up, "again": again, "after": after })
    );
    Ok(())
}

type Refused<E> = RequestTokenError<E, openidconnect::StandardErrorResponse<CoreErrorResponseType>>;

/// The error code that a request is refused with.
fn code<E: Error + 'static>(answer: Result<CoreTokenResponse, Refused<E>>) -> String {
    match answer {
        Ok(_) => "nothing".to_owned(),
        Err(RequestTokenError::ServerResponse(refused)) => refused.error().to_string(),
        Err(error) => error.to_string(),
    }
}

/// Sends a request; ureq calls answers with an error status errors.
fn send(agent: &ureq::Agent, request: HttpRequest) -> Result<HttpResponse, io::Error> {
    let (head, body) = request.into_parts();
    let mut call = agent.request(head.method.as_str(), &head.uri.to_string());
    for (name, value) in &head.headers {
        call = call.set(name.as_str(), value.to_str().map_err(io::Error::other)?);
    }
    let sent = match body.is_empty() {
        true => call.call(),
        false => call.send_bytes(&body),
    };
    let answer = match sent {
        Ok(answer) | Err(ureq::Error::Status(_, answer)) => answer,
        Err(error) => return Err(io::Error::other(error)),
    };
    let built = http::Response::builder()
        .status(answer.status())
        .header(http::header::CONTENT_TYPE, answer.content_type());
    let mut body = Vec::new();
    answer.into_reader().take(1 << 20).read_to_end(&mut body)?;
    built.body(body).map_err(io::Error::other)
}

/// Sends the user's browser to an address and waits for it; the parameters it came back with.
fn come_back(address: &str) -> Result<HashMap<String, String>, Box<dyn Error>> {
    println!("{}", json!({ "open": address }));
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let callback = openidconnect::url::Url::parse(line.trim())?;
    Ok(callback.query_pairs().into_owned().collect())
}
