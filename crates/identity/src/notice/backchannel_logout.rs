//! Logout tokens (OpenID Connect Back-Channel Logout 1.0 section 2.4).

use serde::Serialize;
use serde_json::{Value, json};
use testudo_model::{ClientName, Redacted, SessionId, Timestamp, TokenId, UserId};
use testudo_store::{Expected, Versioned};
use url::form_urlencoded;

use super::{Message, NoticeContent};
use crate::{
    Fault, Provider,
    change::Change,
    limits::LOGOUT_TOKEN_LIFETIME,
    records::{Client, Grant},
};

/// `typ` of a logout token.
const LOGOUT_TOKEN_TYPE: &str = "logout+jwt";

/// The one event of a logout token.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Claims of a logout token. There is no `nonce`, so that nobody takes it for an ID token.
#[derive(Serialize)]
struct LogoutTokenClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    /// Each attempt has another, so that a client that remembers them takes the second attempt too.
    jti: TokenId,
    events: Value,
    sid: &'a SessionId,
}

impl Provider {
    /// The logout request for a client; `None` if it is not there any more, or does not want to be told.
    pub(super) fn logout_message(
        &self,
        client_id: &ClientName,
        client_created_at: Timestamp,
        user: &UserId,
        session: &SessionId,
    ) -> Result<Option<Message>, Fault> {
        let client = self.tenant.get::<Client>(client_id.as_str())?;
        let client = client
            .map(|client| client.record)
            .filter(|client| client.created_at == client_created_at);
        let Some(client) = client else {
            return Ok(None);
        };
        let Some(uri) = client.logout.backchannel_logout_uri else {
            return Ok(None);
        };
        let now = self.clock.now();
        let claims = LogoutTokenClaims {
            iss: &self.settings.issuer,
            sub: user.as_str(),
            aud: client_id.as_str(),
            iat: now.unix_seconds(),
            exp: (now + LOGOUT_TOKEN_LIFETIME).unix_seconds(),
            jti: TokenId::generate(&*self.clock, &*self.entropy),
            events: json!({ LOGOUT_EVENT: {} }),
            sid: session,
        };
        // As its ID tokens are (section 2.6).
        let algorithm = client.signing.id_token_signed_response_alg;
        let token = self.sign_told(algorithm, LOGOUT_TOKEN_TYPE, &claims)?;
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("logout_token", &token)
            .finish();
        Ok(Some(Message {
            url: uri.as_str().to_owned(),
            media_type: "application/x-www-form-urlencoded",
            authorization: None,
            body: Redacted::new(body),
        }))
    }

    /// Adds the end of a grant to `change`, and tells its client.
    pub(crate) fn delete_grant<'p>(
        &self,
        change: Change<'p>,
        grant: &Versioned<Grant>,
    ) -> Result<Change<'p>, Fault> {
        let Versioned { record, version } = grant;
        let change = change.delete::<Grant>(Expected::Version(*version), record.id.as_str());
        let client = self.tenant.get::<Client>(record.client_id.as_str())?;
        let wants_to_know = client.is_some_and(|Versioned { record: client, .. }| {
            record.belongs_to(&client) && client.logout.backchannel_logout_uri.is_some()
        });
        if !wants_to_know {
            return Ok(change);
        }
        Ok(change.tell(NoticeContent::BackchannelLogout {
            client_id: record.client_id.clone(),
            client_created_at: record.client_created_at,
            user: record.user.clone(),
            session: record.id.clone(),
        }))
    }
}
