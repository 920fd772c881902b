//! The OpenID Connect provider's logic.
