//! The client credentials grant (RFC 6749 section 4.4): service accounts act for themselves.

use testudo_model::{Scope, TokenId};

use super::{AuthenticatedClient, ClientHolder, TokenError, TokenResponse, issued};
use crate::{
    Caller, Parameters, Provider,
    claims::AccessTokenFacts,
    records::GrantType,
    scopes::{self, SSF_MANAGE, SSF_READ, ScopeSet},
};

impl Provider {
    /// Gives a service account an access token, bound to what it came with.
    pub(super) fn client_credentials(
        &self,
        client: &AuthenticatedClient,
        parameters: &Parameters,
        caller: &Caller,
    ) -> Result<TokenResponse, TokenError> {
        let ClientHolder::ServiceAccount(account) = &client.holder else {
            return Err(TokenError::UnauthorizedClient);
        };
        let mut allowed: ScopeSet = account.scopes.iter().cloned().collect();
        if account.signals.is_some() {
            let own = [SSF_READ, SSF_MANAGE].into_iter();
            allowed.extend(own.filter_map(|scope| scope.parse::<Scope>().ok()));
        }
        let granted =
            scopes::narrowed(allowed, parameters.get("scope")).ok_or(TokenError::InvalidScope)?;
        let token_id = TokenId::generate(&*self.clock, &*self.entropy);
        let facts = AccessTokenFacts {
            issuer: &self.settings.issuer,
            audience: &self.settings.audience,
            id: &token_id,
            now: self.clock.now(),
            subject: account.id.as_str(),
            client_id: &account.name,
            scopes: &granted,
            login: None,
            binding: client.binding(),
        };
        let access_token = self.sign_access_token(&facts)?;
        let report = issued(&facts).detail("grant_type", GrantType::ClientCredentials.as_str());
        let report = client.told_by(report);
        self.report(report, caller)?;
        Ok(self.token_response(access_token, &facts))
    }
}
