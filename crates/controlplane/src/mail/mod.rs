//! Sends what users are told by mail.

mod letter;
mod smtp;

use std::{sync::Arc, time::Duration};

use testudo_identity::{Delivery, DueMail, Fault, Provider};
use testudo_model::Clock;
use testudo_runtime::{fleet::MailServer, with_causes};
use testudo_trust::IdentitySource;
use tokio::sync::watch;
use tracing::warn;

use self::smtp::SmtpError;
use crate::{metrics::ControlMetrics, notices::Carrier, outbound::Roots};

/// Time for one letter, from looking up the server's name to its last word.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends letters, as the fleet says.
pub struct Post {
    server: watch::Receiver<Option<MailServer>>,
    roots: Roots,
    /// Who we are to a mail server: the host of the issuer.
    hello: String,
    /// The fleet's name.
    fleet: String,
    clock: Arc<dyn Clock>,
    metrics: ControlMetrics,
}

/// What a [`Post`] is made of.
pub struct PostOptions {
    /// The server that takes mail.
    pub server: watch::Receiver<Option<MailServer>>,
    /// The fleet's own certificate authorities.
    pub identity: IdentitySource,
    /// The provider's address.
    pub issuer: String,
    /// The fleet's name.
    pub fleet: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: ControlMetrics,
}

impl Post {
    /// One that follows what the fleet says about its server.
    pub fn new(options: PostOptions) -> Self {
        let issuer = url::Url::parse(&options.issuer).ok();
        let host = issuer.and_then(|issuer| issuer.host_str().map(str::to_owned));
        Self {
            server: options.server,
            roots: Roots::new(options.identity),
            hello: host.unwrap_or_else(|| "localhost".to_owned()),
            fleet: options.fleet,
            clock: options.clock,
            metrics: options.metrics,
        }
    }

    async fn send(&self, due: &DueMail) -> Result<(), SmtpError> {
        let server = self.server.borrow().clone().ok_or(SmtpError::NoServer)?;
        let site = match due.mail.tenant.is_default() {
            true => self.fleet.clone(),
            false => format!("{} ({})", due.mail.tenant, self.fleet),
        };
        let letter = letter::write(&due.mail, &server, &site, self.clock.now())
            .map_err(SmtpError::Letter)?;
        let sending = smtp::send(&server, &self.roots, &self.hello, &letter);
        tokio::time::timeout(SEND_TIMEOUT, sending)
            .await
            .map_err(|_| SmtpError::Timeout)?
    }
}

impl Carrier for Post {
    type Due = DueMail;

    fn has_due(provider: &Provider) -> bool {
        provider.has_due_mail()
    }

    fn due(provider: &Provider) -> Result<Vec<DueMail>, Fault> {
        provider.due_mails()
    }

    async fn carry(&self, due: &DueMail) -> Delivery {
        let (delivery, outcome) = match self.send(due).await {
            Ok(()) => (Delivery::Taken, "sent"),
            Err(error) => {
                // The ledger keeps what it gets, and a server's words often have the address in them.
                warn!(notice = %due.notice.id, error = with_causes(&error), "a letter was not sent");
                match error.is_final() {
                    true => (Delivery::Refused(error.to_string()), "refused"),
                    false => (Delivery::Failed(error.to_string()), "failed"),
                }
            }
        };
        self.metrics.mail(outcome);
        delivery
    }

    fn settle(provider: &Provider, due: &DueMail, delivery: &Delivery) -> Result<(), Fault> {
        provider.settle_mail(due, delivery)
    }
}
