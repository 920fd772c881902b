//! What a user is told whose login is too weak or too old for what they want (RFC 9470).

use std::fmt::{self, Display, Formatter};

use testudo_policy::StepUp;

/// The challenge: the client has its user log in again, as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepUpChallenge {
    /// The login that would do.
    pub(crate) login: StepUp,
    /// Whether the token was bound to a key: that is the scheme to answer in.
    pub(crate) is_bound: bool,
}

impl StepUpChallenge {
    /// The same for people.
    pub(crate) fn detail(&self) -> &'static str {
        match (self.login.assurance, self.login.max_age) {
            (Some(3..), Some(_)) => "log in again, with a passkey",
            (Some(3..), None) => "log in with a passkey",
            (Some(_), Some(_)) => "log in again, with a second factor",
            (Some(_), None) => "log in with a second factor",
            (None, _) => "log in again",
        }
    }
}

/// The value of `WWW-Authenticate` (section 3).
impl Display for StepUpChallenge {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_bound { "DPoP" } else { "Bearer" };
        write!(
            formatter,
            r#"{scheme} error="insufficient_user_authentication", error_description="{}""#,
            self.detail()
        )?;
        if let Some(assurance) = self.login.assurance {
            write!(formatter, r#", acr_values="{assurance}""#)?;
        }
        if let Some(max_age) = self.login.max_age {
            write!(formatter, r#", max_age="{max_age}""#)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_what_is_missing_and_nothing_else() {
        let challenge = |assurance, max_age, is_bound| {
            let login = StepUp { assurance, max_age };
            StepUpChallenge { login, is_bound }.to_string()
        };
        assert_eq!(
            challenge(Some(2), None, false),
            r#"Bearer error="insufficient_user_authentication", error_description="log in with a second factor", acr_values="2""#
        );
        assert_eq!(
            challenge(None, Some(900), true),
            r#"DPoP error="insufficient_user_authentication", error_description="log in again", max_age="900""#
        );
        assert!(challenge(Some(3), Some(60), false).ends_with(r#"acr_values="3", max_age="60""#));
    }
}
