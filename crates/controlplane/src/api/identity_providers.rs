//! Where people may log in elsewhere, and which accounts there are connected to theirs.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_identity::{
    AssuranceRule, IdentityProvider, LinkId, LinkView, NewUsers, UpstreamAuthentication,
};
use testudo_model::Username;

use super::{
    Administrator, Answer,
    extract::{Body, Path},
    users::{refusal, user_named},
};
use crate::{http::Refusal, plane::Plane};

/// `GET /api/v1/identity-providers`: as the fleet file says, without secrets.
pub async fn list(State(plane): State<Arc<Plane>>) -> Answer {
    let providers = plane.provider.identity_providers();
    let items: Vec<Value> = providers.iter().map(|at| shown(&plane, at)).collect();
    Ok(Json(json!({ "items": items })))
}

/// `GET /api/v1/users/{username}/links`.
pub async fn links(State(plane): State<Arc<Plane>>, Path(username): Path<Username>) -> Answer {
    plane
        .blocking(move |plane| {
            let user = user_named(plane, &username)?;
            let links = plane.provider.links_of(&user);
            let links = links.map_err(|fault| Refusal::internal(&fault))?;
            let items: Vec<Value> = links.iter().map(view).collect();
            Ok(Json(json!({ "items": items })))
        })
        .await?
}

/// Body of a connection.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    identity_provider: String,
    subject: String,
}

/// `POST /api/v1/users/{username}/links`: an administrator knows whose account elsewhere it is.
pub async fn connect(
    State(plane): State<Arc<Plane>>,
    Path(username): Path<Username>,
    Extension(administrator): Extension<Administrator>,
    Body(account): Body<Account>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let user = user_named(plane, &username)?;
            let caller = administrator.identity_caller();
            let (at, subject) = (&account.identity_provider, &account.subject);
            let link = plane.provider.connect_user(&user, at, subject, &caller);
            let link = link.map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "link": link })))
        })
        .await?
}

/// `DELETE /api/v1/users/{username}/links/{link}`: sessions by it end.
pub async fn disconnect(
    State(plane): State<Arc<Plane>>,
    Path((username, link)): Path<(Username, String)>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let user = user_named(plane, &username)?;
            let unknown = |_| Refusal::not_found("connected account");
            let link: LinkId = link.parse().map_err(unknown)?;
            let caller = administrator.identity_caller();
            let done = plane.provider.disconnect_user(&user, &link, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "removed": link })))
        })
        .await?
}

fn view(link: &LinkView) -> Value {
    json!({
        "id": link.id,
        "identity_provider": link.source,
        "issuer": link.authority,
        "subject": link.subject,
        "account": link.account,
        "created": link.created_at.to_string(),
        "last_login": link.last_login_at.map(|at| at.to_string()),
    })
}

fn shown(plane: &Plane, at: &IdentityProvider) -> Value {
    let rule =
        |rule: &AssuranceRule| json!({ "acr": rule.acr, "amr": rule.amr, "class": rule.class });
    let assurance: Vec<Value> = at.assurance.iter().map(rule).collect();
    json!({
        "name": at.name,
        "label": at.label,
        "issuer": at.issuer,
        "client_id": at.client_id,
        "redirect_uri": plane.provider.upstream_redirect_uri(&at.name),
        "authentication": match at.authentication {
            UpstreamAuthentication::SecretBasic(_) => "client_secret_basic",
            UpstreamAuthentication::SecretPost(_) => "client_secret_post",
            UpstreamAuthentication::PrivateKeyJwt => "private_key_jwt",
        },
        "scopes": at.scopes,
        "new_users": match at.new_users {
            NewUsers::Link => "link",
            NewUsers::Create => "create",
        },
        "trust_email": at.trusts_email,
        "username_claim": at.username_claim,
        "groups": at.groups.as_ref().map(|groups| json!({
            "claim": groups.claim,
            "map": groups.map,
        })),
        "assurance": assurance,
    })
}
