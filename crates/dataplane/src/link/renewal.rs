//! The certificate is renewed at half of its life, each time with a new key.

use std::{sync::Arc, time::Duration};

use testudo_model::{Clock, Timestamp, limits::LATE_RENEWAL};
use testudo_runtime::with_causes;
use testudo_trust::{Svid, SvidKey, TrustBundle};
use tonic::transport::Channel;

use super::{
    Link, LinkError,
    backoff::{Backoff, jitter},
    channel::answer,
    enrol::{Expected, accept, parse_bundle},
};
use crate::wire::{RenewRequest, proxy_client::ProxyClient};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Slice of a long wait. A machine that was suspended, or whose clock was set, notices within it.
const SLICE: Duration = Duration::from_secs(1);

impl Link {
    /// Has the certificate renewed at once.
    pub fn renew_now(&self) {
        self.renew_now.notify_one();
    }

    /// Renews for ever. A failure leaves the certificate in place as long as it lives.
    pub(super) async fn keep_renewing(&self) {
        let mut backoff = Backoff::new(Arc::clone(&self.entropy), FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let at = self.renewal_time(&self.identity.current());
            tokio::select! {
                () = sleep_until(&*self.clock, at) => {}
                () = self.renew_now.notified() => {}
            }
            while let Err(error) = self.renew().await {
                self.note_failed_renewal(&error);
                tokio::time::sleep(backoff.pause()).await;
            }
            backoff.reset();
        }
    }

    /// Half of the life, give or take a tenth: proxies started together do not stay together.
    fn renewal_time(&self, svid: &Svid) -> Timestamp {
        let life = svid.not_after().since(svid.not_before());
        svid.not_before() + life * 4 / 10 + jitter(&*self.entropy, life / 5)
    }

    async fn renew(&self) -> Result<(), LinkError> {
        let current = self.identity.current();
        let (svid, bundle) = renewed(self.channel(), &current, &*self.clock).await?;
        tracing::debug!(until = %svid.not_after(), "certificate renewed");
        // The bundle first: for a moment too many roots are trusted, never a certificate of an unknown one.
        self.identity.swap_bundle(bundle);
        self.identity.swap(svid);
        self.keep_identity().await;
        self.reconnect()?;
        self.gates.identity.ready();
        Ok(())
    }

    fn note_failed_renewal(&self, error: &LinkError) {
        let svid = self.identity.current();
        let text = with_causes(error);
        if self.clock.now() < svid.not_after() {
            tracing::warn!(error = text, until = %svid.not_after(), "could not renew the certificate yet");
        } else {
            let until = svid.not_after() + LATE_RENEWAL;
            tracing::error!(
                error = text,
                %until,
                "the certificate expired; it may still be renewed for a while, then only a new join token helps"
            );
            self.gates
                .identity
                .not_ready(format!("the certificate expired at {}", svid.not_after()));
        }
    }

    async fn keep_identity(&self) {
        let identity = self.identity.clone();
        self.keep("identity", move |folder| folder.keep_identity(&identity))
            .await;
    }
}

/// The certificate after `current`, over a connection that shows `current`, and whom to trust from now on.
pub(super) async fn renewed(
    channel: Channel,
    current: &Svid,
    clock: &dyn Clock,
) -> Result<(Svid, TrustBundle), LinkError> {
    let key = SvidKey::generate();
    let certificate_request = key.csr_der(current.id()).map_err(LinkError::Identity)?;
    let mut client = ProxyClient::new(channel);
    let request = RenewRequest {
        certificate_request: certificate_request.into(),
    };
    let reply = answer("renew the certificate", client.renew(request)).await?;
    let bundle = parse_bundle(current.id().trust_domain(), &reply.trust_bundle)?;
    let chain = reply.chain.iter().map(|der| der.to_vec()).collect();
    let svid = accept(chain, key, &bundle, clock)?;
    if svid.id() != current.id() {
        return Err(LinkError::WrongIdentity {
            got: svid.id().clone(),
            expected: Expected::Exactly(current.id().clone()),
        });
    }
    Ok((svid, bundle))
}

/// Sleeps until the wall clock shows `at`.
async fn sleep_until(clock: &dyn Clock, at: Timestamp) {
    loop {
        let left = at.since(clock.now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(SLICE)).await;
    }
}
