//! The client side of the control plane's HTTP interface, for the command line.
//!
//! Two ways lead there: the Unix socket in the data folder (who may open it owns the data anyway), and HTTPS
//! with an access token.

mod connection;
mod login;

pub use connection::{Answer, Connection, ConnectionError, Target};
pub use login::{
    CLI_CLIENT, Login, LoginError, TokenSet, begin_browser_login, log_in_with_password, refresh,
    revoke,
};
