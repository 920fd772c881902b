//! Who may administer, as policies say.

use std::sync::Arc;

use testudo_policy::{AdminRules, PolicyErrors};

/// The policies that are asked about each operation of the admin API.
pub struct Administration {
    rules: Arc<AdminRules>,
}

impl Administration {
    /// The built-in ones.
    ///
    /// # Errors
    /// This build is broken.
    pub fn built_in() -> Result<Self, PolicyErrors> {
        let rules = Arc::new(AdminRules::built_in()?);
        Ok(Self { rules })
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<AdminRules> {
        Arc::clone(&self.rules)
    }
}
