//! Certificates: the first one, the next one, the gateway's web one and the control plane's own.

use std::{net::IpAddr, time::Duration};

use testudo_model::{
    Redacted, SpiffeId, Timestamp,
    event::{Actor, EventClass, Outcome},
    limits::SVID_LIFETIME,
};
use testudo_trust::{Svid, SvidKey, certificate_thumbprint, certificate_times};

use crate::{
    Caller, EventNotRecorded, PublishedBundle, ShownCertificate, WorkloadError, WorkloadRole,
    Workloads, sink::Fact,
};

/// Life of a web certificate. Browsers and command-line clients tolerate less skew than proxies renew.
pub(crate) const WEB_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Names in one web certificate.
const MAX_WEB_NAMES: usize = 100;
/// Longest DNS name (RFC 1035 section 2.3.4).
const MAX_DNS_NAME: usize = 253;

/// A certificate that was issued.
#[derive(Debug, Clone)]
pub struct IssuedChain {
    /// The identity in it.
    pub id: SpiffeId,
    /// DER, leaf first, the root last: first contact pins the root.
    pub chain: Vec<Vec<u8>>,
    /// End of the leaf's validity. Renew at half-life.
    pub not_after: Timestamp,
}

/// What a proxy gets for its join token.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Its first certificate.
    pub issued: IssuedChain,
    /// Whom to trust.
    pub bundle: PublishedBundle,
}

/// A web certificate with its key, for the control plane's own listeners.
#[derive(Debug, Clone)]
pub struct LocalWebCertificate {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The private key.
    pub key: SvidKey,
    /// End of the leaf's validity.
    pub not_after: Timestamp,
}

impl Workloads {
    /// Exchanges a join token (`<token id>.<secret>`) and a certificate request for the first certificate.
    /// A refused request does not use the token up.
    ///
    /// # Errors
    /// The token is unknown, used or expired; its identity was removed or revoked; the request is malformed;
    /// the store fails or the event could not be recorded (the token is then used up and nothing handed out).
    pub fn enrol(
        &self,
        credential: &Redacted<String>,
        request_der: &[u8],
        caller: &Caller,
    ) -> Result<Enrolment, WorkloadError> {
        let enrolled = self.try_enrol(credential, request_der);
        match &enrolled {
            Ok(enrolment) => self.record_issue("workload.enrol", &enrolment.issued, caller)?,
            Err(error) => {
                // Anybody may ask, so not everybody gets a row of the ledger.
                if self
                    .refusals
                    .admits(caller.source_ip, self.clock.monotonic_nanos())
                {
                    self.record_refusal("workload.enrol", None, error, caller)?;
                }
                self.report_unrecorded_refusals()?;
            }
        }
        enrolled
    }

    /// Tells in one event how many refused enrolments got none of their own, at most once a minute. For a reconciler to
    /// call now and then, so that the last of a flood are told too.
    ///
    /// # Errors
    /// The event could not be recorded.
    pub fn report_unrecorded_refusals(&self) -> Result<(), EventNotRecorded> {
        let Some(count) = self.refusals.summary(self.clock.monotonic_nanos()) else {
            return Ok(());
        };
        self.record(Fact {
            class: EventClass::DetectionFinding,
            activity: "workload.refusals",
            outcome: Outcome::Denied,
            caller: &Caller::default(),
            target: self.trust_domain.to_string(),
            details: vec![("count", count.into())],
        })
    }

    /// A new certificate for a workload that showed its current one, which may have ended lately.
    ///
    /// # Errors
    /// The identity was removed or revoked, the certificate shown ended and is not one that renews late, the
    /// request is malformed, the store fails, or the event could not be recorded.
    pub fn renew(
        &self,
        shown: &ShownCertificate,
        request_der: &[u8],
        caller: &Caller,
    ) -> Result<IssuedChain, WorkloadError> {
        let renewed = self.try_renew(shown, request_der);
        match &renewed {
            Ok(issued) => {
                let activity = if shown.holds(self.clock.now()) {
                    "workload.renew"
                } else {
                    "workload.renew_late"
                };
                self.record_issue(activity, issued, caller)?;
            }
            Err(error) => self.record_refusal("workload.renew", Some(&shown.id), error, caller)?,
        }
        renewed
    }

    /// A web certificate (server authentication for DNS names and addresses) for the gateway.
    ///
    /// # Errors
    /// The peer is not the gateway, a name is not one of the fleet's public names, or as in
    /// [`Workloads::renew`].
    pub fn issue_web(
        &self,
        peer: &SpiffeId,
        request_der: &[u8],
        names: &[String],
        caller: &Caller,
    ) -> Result<IssuedChain, WorkloadError> {
        let issued = self
            .gateway_may_serve(peer, names)
            .and_then(|()| self.sign_web(peer, request_der, names));
        match &issued {
            Ok(issued) => self.record_issue("workload.issue_web", issued, caller)?,
            Err(error) => self.record_refusal("workload.issue_web", Some(peer), error, caller)?,
        }
        issued
    }

    /// An SVID with a fresh key for something in the control plane's own process. Never offer it to a peer.
    ///
    /// # Errors
    /// The identity is not registered or revoked, the store fails, or the event could not be recorded.
    pub fn issue_local(&self, id: &SpiffeId) -> Result<Svid, WorkloadError> {
        self.registration(id)?;
        let key = SvidKey::generate();
        let issued = self.issue_svid(id, &key.csr_der(id)?)?;
        self.record_issue("workload.issue_local", &issued, &Caller::default())?;
        Ok(Svid::new(issued.chain, key)?)
    }

    /// A web certificate with a fresh key for a listener in the control plane's own process.
    ///
    /// # Errors
    /// A name is malformed, the store fails, or the event could not be recorded.
    pub fn issue_local_web(&self, names: &[String]) -> Result<LocalWebCertificate, WorkloadError> {
        let server = self.trust_domain.server();
        let key = SvidKey::generate();
        let issued = self.sign_web(&server, &key.csr_der(&server)?, names)?;
        self.record_issue("workload.issue_local_web", &issued, &Caller::default())?;
        Ok(LocalWebCertificate {
            chain: issued.chain,
            key,
            not_after: issued.not_after,
        })
    }

    fn try_enrol(
        &self,
        credential: &Redacted<String>,
        request_der: &[u8],
    ) -> Result<Enrolment, WorkloadError> {
        let presented = self.present_join_token(credential)?;
        self.registration(&presented.record.id)?;
        let issued = self.issue_svid(&presented.record.id, request_der)?;
        let bundle = self.bundle()?;
        self.begin_lineage(&issued)?;
        // Last, so that a malformed request costs nothing; nothing is handed out unless this wins.
        self.redeem_join_token(presented)?;
        Ok(Enrolment { issued, bundle })
    }

    fn try_renew(
        &self,
        shown: &ShownCertificate,
        request_der: &[u8],
    ) -> Result<IssuedChain, WorkloadError> {
        let registration = self.registration(&shown.id)?;
        let lineage = self.lineage_of(shown)?;
        self.may_renew(shown, &registration, lineage.as_ref())?;
        let issued = self.issue_svid(&shown.id, request_der)?;
        self.continue_lineage(lineage, shown, &issued)?;
        Ok(issued)
    }

    fn issue_svid(&self, id: &SpiffeId, request_der: &[u8]) -> Result<IssuedChain, WorkloadError> {
        let (authority, root) = self.active_authority()?;
        let leaf = authority.issue(
            request_der,
            id,
            &[],
            self.clock.now(),
            SVID_LIFETIME,
            &*self.entropy,
        )?;
        IssuedChain::new(id, leaf, root)
    }

    fn sign_web(
        &self,
        id: &SpiffeId,
        request_der: &[u8],
        names: &[String],
    ) -> Result<IssuedChain, WorkloadError> {
        let (dns, addresses) = sort_names(names)?;
        let (authority, root) = self.active_authority()?;
        let leaf = authority.issue_web(
            request_der,
            &dns,
            &addresses,
            self.clock.now(),
            WEB_LIFETIME,
            &*self.entropy,
        )?;
        IssuedChain::new(id, leaf, root)
    }

    fn gateway_may_serve(&self, peer: &SpiffeId, names: &[String]) -> Result<(), WorkloadError> {
        let registration = self.registration(peer)?;
        if registration.role != WorkloadRole::Gateway {
            return Err(WorkloadError::NotTheGateway { id: peer.clone() });
        }
        match names
            .iter()
            .find(|name| !registration.web_names.contains(name))
        {
            Some(name) => Err(WorkloadError::NameNotAllowed { name: clip(name) }),
            None => Ok(()),
        }
    }

    fn record_issue(
        &self,
        activity: &'static str,
        issued: &IssuedChain,
        caller: &Caller,
    ) -> Result<(), WorkloadError> {
        self.record(Fact {
            class: EventClass::Authentication,
            activity,
            outcome: Outcome::Success,
            caller: &caller.or_workload(&issued.id),
            target: issued.id.to_string(),
            details: vec![
                ("not_after", issued.not_after.to_string().into()),
                ("certificate", issued.thumbprint().into()),
            ],
        })?;
        Ok(())
    }

    fn record_refusal(
        &self,
        activity: &'static str,
        id: Option<&SpiffeId>,
        error: &WorkloadError,
        caller: &Caller,
    ) -> Result<(), WorkloadError> {
        self.record(Fact {
            class: EventClass::Authentication,
            activity,
            outcome: if error.is_refusal() {
                Outcome::Denied
            } else {
                Outcome::Failure
            },
            caller,
            target: id.map_or_else(|| self.trust_domain.to_string(), SpiffeId::to_string),
            details: vec![("reason", error.code().into())],
        })?;
        Ok(())
    }
}

impl IssuedChain {
    fn new(id: &SpiffeId, leaf: Vec<u8>, root: Vec<u8>) -> Result<Self, WorkloadError> {
        let (_, not_after) = certificate_times(&leaf)?;
        Ok(Self {
            id: id.clone(),
            chain: vec![leaf, root],
            not_after,
        })
    }

    pub(crate) fn thumbprint(&self) -> String {
        let leaf = self.chain.first();
        leaf.map(|leaf| certificate_thumbprint(leaf))
            .unwrap_or_default()
    }
}

impl Caller {
    /// The workload itself, where no one else is named.
    fn or_workload(&self, id: &SpiffeId) -> Self {
        if self.actor == Actor::default() {
            let actor = Actor {
                workload: Some(id.clone()),
                ..Actor::default()
            };
            Self {
                actor,
                source_ip: self.source_ip,
            }
        } else {
            self.clone()
        }
    }
}

fn sort_names(names: &[String]) -> Result<(Vec<String>, Vec<IpAddr>), WorkloadError> {
    let malformed = |name: &str| WorkloadError::NameMalformed { name: clip(name) };
    if names.is_empty() || names.len() > MAX_WEB_NAMES {
        return Err(malformed(""));
    }
    let (mut dns, mut addresses) = (Vec::new(), Vec::new());
    for name in names {
        if let Ok(address) = name.parse() {
            addresses.push(address);
        } else if is_dns_name(name) {
            dns.push(name.clone());
        } else {
            return Err(malformed(name));
        }
    }
    Ok((dns, addresses))
}

/// LDH labels (RFC 1123 section 2.1), the first one may be `*`.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= MAX_DNS_NAME
        && name
            .strip_prefix("*.")
            .unwrap_or(name)
            .split('.')
            .all(is_label)
}

/// Text from a peer, short enough for an error.
fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::{is_dns_name, sort_names};

    #[test]
    fn names_are_dns_names_or_addresses() {
        for good in [
            "localhost",
            "shop.example",
            "*.shop.example",
            "a-b.c",
            "xn--bcher-kva.example",
        ] {
            assert!(is_dns_name(good), "{good}");
        }
        for bad in [
            "", "*", "*.", "a..b", "-a", "a-", "a b", "a/b", "a\0b", "*.*.a", "a.*", "bücher",
        ] {
            assert!(!is_dns_name(bad), "{bad}");
        }
        let names = [
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        let (dns, addresses) = sort_names(&names).unwrap();
        assert_eq!((dns.len(), addresses.len()), (1, 2));
        assert!(sort_names(&[]).is_err());
    }
}
