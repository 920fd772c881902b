//! Which passwords people may choose: long ones that nobody would guess and that are in no list of stolen ones
//! (NIST SP 800-63B-4 section 3.1.1.2). What is in them is not prescribed.

mod breached;

use std::sync::{Arc, PoisonError};

use testudo_model::{Redacted, Username};
use zxcvbn::{Score, feedback::Feedback, zxcvbn};

pub use self::breached::{BreachedListError, BreachedPasswords};
use crate::{
    AdminError, Fault, Provider,
    limits::{MAX_PASSWORD_BYTES, MIN_PASSWORD_CHARACTERS},
    records::User,
};

/// Shortest part of a name that is looked for in a password.
const MIN_WORD_CHARACTERS: usize = 3;

/// What is demanded of passwords, beside their length.
#[derive(Debug, Clone)]
pub struct PasswordRules {
    /// The least estimate of zxcvbn, 0 to 4. With 3 it takes a hundred million guesses, with 4 ten billion.
    pub min_score: u8,
    /// Those that were stolen elsewhere.
    pub breached: Option<Arc<BreachedPasswords>>,
}

impl Default for PasswordRules {
    fn default() -> Self {
        Self {
            min_score: 3,
            breached: None,
        }
    }
}

/// What is known about whom a password is for: it makes a password easier to guess.
#[derive(Clone, Copy, Default)]
pub(crate) struct Owner<'a> {
    pub(crate) username: Option<&'a Username>,
    pub(crate) display_name: Option<&'a str>,
    pub(crate) email: Option<&'a str>,
}

impl<'a> Owner<'a> {
    /// What is known about `user`.
    pub(crate) fn of(user: &'a User) -> Self {
        Self {
            username: Some(&user.username),
            display_name: user.display_name.as_deref(),
            email: user.email.as_deref(),
        }
    }

    /// Names and addresses, and the words in them.
    fn words<'w>(&'w self, fleet: &'w str) -> Vec<&'w str> {
        let username = self.username.map(Username::as_str);
        let whole = [username, self.display_name, self.email, Some(fleet)];
        let whole = whole.into_iter().flatten();
        let mut words: Vec<&str> = Vec::new();
        for text in whole {
            words.push(text);
            words.extend(text.split(|character: char| !character.is_alphanumeric()));
        }
        words.retain(|word| word.chars().count() >= MIN_WORD_CHARACTERS);
        words
    }
}

impl Provider {
    /// What is demanded of passwords that are set from now on. Those that are there stay.
    pub fn demand_of_passwords(&self, rules: PasswordRules) {
        let mut current = self
            .password_rules
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(rules);
    }

    /// What is demanded of them now.
    pub fn password_rules(&self) -> Arc<PasswordRules> {
        let current = self
            .password_rules
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Refuses a password that is too short or long, easy to guess, or known to be stolen.
    pub(crate) fn check_password(
        &self,
        password: &Redacted<String>,
        owner: Owner<'_>,
    ) -> Result<(), AdminError> {
        let text = password.expose();
        if text.chars().count() < MIN_PASSWORD_CHARACTERS || text.len() > MAX_PASSWORD_BYTES {
            let why = format!(
                "must have {MIN_PASSWORD_CHARACTERS} characters or more, and {MAX_PASSWORD_BYTES} bytes or less"
            );
            return Err(AdminError::invalid("password", why));
        }
        let rules = self.password_rules();
        let host = self.settings.issuer.trim_start_matches("https://");
        let estimate = zxcvbn(text, &owner.words(host));
        if u8::from(estimate.score()) < rules.min_score {
            let why = guessable(estimate.score(), estimate.feedback());
            return Err(AdminError::invalid("password", why));
        }
        let Some(breached) = &rules.breached else {
            return Ok(());
        };
        match breached.contains(text) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let why =
                    "is in a list of passwords that were stolen elsewhere; choose another one";
                Err(AdminError::invalid("password", why))
            }
            Err(error) => Err(Fault::BreachedList(error).into()),
        }
    }
}

/// Why it is easy to guess, in words.
fn guessable(score: Score, feedback: Option<&Feedback>) -> String {
    let warning = feedback.and_then(Feedback::warning);
    let suggestions = feedback.map_or(&[][..], Feedback::suggestions);
    let reasons = warning.map(|warning| warning.to_string());
    let suggestions = suggestions.iter().map(ToString::to_string);
    let said: Vec<String> = reasons
        .into_iter()
        .chain(suggestions)
        .map(|text| text.trim_end_matches('.').to_owned())
        .collect();
    let score = u8::from(score);
    match said.is_empty() {
        true => format!("is too easy to guess (strength {score} of 4); add another word or two"),
        false => format!(
            "is too easy to guess (strength {score} of 4): {}",
            said.join(". ")
        ),
    }
}
