//! What goes wrong on our side of the counter.

use testudo_store::StoreError;

/// The provider could not do its work, whatever the request was. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The store refused or failed.
    #[error("the identity store could not be read or written")]
    Store(#[from] StoreError),
    /// Others kept changing the same records.
    #[error("too many changes of the same records at once; try again")]
    Contended,
    /// A stored key cannot be used.
    #[error("the stored {what} cannot be used; rotate the provider's keys")]
    Key {
        /// Which key.
        what: &'static str,
    },
    /// A token could not be signed.
    #[error("a token could not be signed")]
    Sign(#[source] testudo_trust::JoseError),
    /// It cannot be looked up whether a password was stolen.
    #[error("the list of stolen passwords cannot be read")]
    BreachedList(#[source] std::io::Error),
    /// The settings make no sense.
    #[error("the {setting} is not usable: {why}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it and what it should be.
        why: &'static str,
    },
}

impl Fault {
    /// Whether trying again may help: then the answer is 503, else 500.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Contended => true,
            Self::Store(error) => !matches!(
                error,
                StoreError::Corrupt { .. }
                    | StoreError::Decode { .. }
                    | StoreError::Encode { .. }
                    | StoreError::TooLarge { .. }
            ),
            Self::Key { .. } | Self::Sign(_) | Self::BreachedList(_) | Self::Setting { .. } => {
                false
            }
        }
    }

    /// HTTP status of the answer.
    pub const fn status(&self) -> u16 {
        if self.is_transient() { 503 } else { 500 }
    }
}
