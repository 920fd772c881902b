//! How a refusal looks on the wire: RFC 9457 problem details and the fields that go with the status.

use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use hyper::body::Body;
use testudo_model::Problem;

use crate::{
    body::AnswerBody,
    headers::{self, TESTUDO_DECISION},
    possession::DPOP_NONCE,
    rejection::Rejection,
    token::TokenError,
    websocket::WebsocketError,
};

/// The answer to a refused request.
pub(crate) fn refuse(rejection: &Rejection, version: Version) -> Response<AnswerBody> {
    let problem = rejection.problem();
    // A problem has strings and numbers only; should writing one fail, the status still says enough.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(AnswerBody::from(body));
    *response.status_mut() = rejection.status();
    let fields = response.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(Problem::MEDIA_TYPE),
    );
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(decision) = rejection.decision() {
        headers::set(fields, TESTUDO_DECISION, decision.as_str());
    }
    if rejection.closes_connection() && version < Version::HTTP_2 {
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(seconds) = rejection.retry_after_seconds() {
        headers::set(fields, header::RETRY_AFTER, &seconds.to_string());
    }
    match rejection {
        Rejection::Limited(limited) => {
            headers::set(
                fields,
                header::HeaderName::from_static("ratelimit"),
                &limited.state_field(),
            );
            headers::set(
                fields,
                header::HeaderName::from_static("ratelimit-policy"),
                &limited.policy_field(),
            );
        }
        Rejection::Method(allowed) => {
            headers::set_list(fields, header::ALLOW, allowed.iter().map(String::as_str))
        }
        // RFC 6455 section 4.4.
        Rejection::Websocket(WebsocketError::Version) => {
            headers::set(fields, header::SEC_WEBSOCKET_VERSION, "13");
            headers::set(fields, header::UPGRADE, "websocket");
        }
        _ => {}
    }
    add_challenges(fields, rejection);
    response
}

/// Takes the body away from the answer to a HEAD (RFC 9110 section 9.3.2); its length stays said.
pub(crate) fn omit_body(response: &mut Response<AnswerBody>) {
    if let Some(length) = response.body().size_hint().exact() {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = AnswerBody::empty();
}

/// Says how to authenticate: RFC 6750 section 3 and RFC 9449 section 7.1 want an error only if a token was sent. A proof
/// that is refused has one challenge alone, or clients would not look for the nonce.
pub(crate) fn add_challenges(fields: &mut HeaderMap, rejection: &Rejection) {
    let challenges: &[&'static str] = match rejection {
        Rejection::Token(TokenError::Several | TokenError::InQuery) => &[],
        Rejection::Token(_) => &[
            r#"Bearer error="invalid_token""#,
            r#"DPoP error="invalid_token", algs="ES256""#,
        ],
        Rejection::Proof(error) => &[error.challenge()],
        Rejection::Denied {
            step_up: Some(challenge),
            ..
        } => {
            headers::set(fields, header::WWW_AUTHENTICATE, &challenge.to_string());
            &[]
        }
        _ if rejection.status() == StatusCode::UNAUTHORIZED => &["Bearer"],
        _ => &[],
    };
    for challenge in challenges {
        fields.append(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(challenge),
        );
    }
    if let Rejection::Proof(error) = rejection
        && let Some(nonce) = error.nonce()
    {
        headers::set(fields, DPOP_NONCE, nonce);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        framing::FramingError,
        rejection::{NotReady, UpstreamError},
    };

    #[test]
    fn a_malformed_request_ends_its_connection() {
        let rejection = Rejection::Framing(FramingError::Length);
        let answer = refuse(&rejection, Version::HTTP_11);
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer.headers()[header::CONNECTION], "close");
        assert!(
            !refuse(&rejection, Version::HTTP_2)
                .headers()
                .contains_key(header::CONNECTION)
        );
    }

    #[test]
    fn a_refused_token_is_challenged_without_a_word_about_keys() {
        let answer = refuse(&Rejection::Token(TokenError::Untrusted), Version::HTTP_2);
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(
            answer.headers()[header::WWW_AUTHENTICATE],
            "Bearer error=\"invalid_token\""
        );
    }

    #[test]
    fn whoever_is_turned_away_is_told_when_to_come_back() {
        for rejection in [
            Rejection::Overloaded,
            Rejection::Upstream(UpstreamError::Overloaded),
        ] {
            let answer = refuse(&rejection, Version::HTTP_2);
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
        }
        let broken = refuse(&Rejection::Upstream(UpstreamError::Broken), Version::HTTP_2);
        assert!(!broken.headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn a_proxy_that_cannot_decide_says_so_and_when_to_come_back() {
        let answer = refuse(&Rejection::NotReady(NotReady::NoSnapshot), Version::HTTP_2);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
        assert_eq!(
            answer.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
    }
}
