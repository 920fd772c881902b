//! What can go wrong in this room.

use testudo_model::{InstanceId, SpiffeId, Timestamp};
use testudo_store::StoreError;
use testudo_trust::X509Error;

use crate::EventNotRecorded;

/// Why a workload operation was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// No such join token, or not this secret. The two are not told apart.
    #[error("the join token is not known; make a new one with `testudo join-token create`")]
    JoinTokenUnknown,
    /// It was redeemed before.
    #[error("the join token was used at {at}; each admits one proxy once, make a new one")]
    JoinTokenUsed {
        /// When.
        at: Timestamp,
    },
    /// Its time is over.
    #[error("the join token expired at {at}; make a new one")]
    JoinTokenExpired {
        /// When.
        at: Timestamp,
    },
    /// The id is not one of the fleet's.
    #[error("`{id}` is not registered; declare its service in the fleet file")]
    NotRegistered {
        /// The id.
        id: SpiffeId,
    },
    /// The identity was revoked.
    #[error("`{id}` was revoked at {at}; reinstate it before it can get certificates again")]
    Revoked {
        /// The id.
        id: SpiffeId,
        /// When.
        at: Timestamp,
    },
    /// The certificate shown for a renewal has ended, and is not one that may be renewed late.
    #[error(
        "the certificate ended at {at} and cannot be renewed: {why}; join again with a new token"
    )]
    CertificateEnded {
        /// When it ended.
        at: Timestamp,
        /// Why that is final.
        why: &'static str,
    },
    /// Only the gateway gets web certificates.
    #[error("`{id}` may not have a web certificate; only the gateway may")]
    NotTheGateway {
        /// Who asked.
        id: SpiffeId,
    },
    /// A name the fleet does not declare.
    #[error("`{name}` is not one of the fleet's public names; add it to the fleet file")]
    NameNotAllowed {
        /// The name.
        name: String,
    },
    /// Neither a DNS name nor an IP address.
    #[error("`{name}` is neither a DNS name nor an IP address")]
    NameMalformed {
        /// The name.
        name: String,
    },
    /// Another workload reports under this instance id.
    #[error(
        "instance {instance} belongs to another workload; start the proxy with a new data folder"
    )]
    InstanceTaken {
        /// The instance.
        instance: InstanceId,
    },
    /// A rotation of the root is under way.
    #[error("a new root is already prepared and becomes active at {activates}")]
    RotationUnderWay {
        /// When the prepared root takes over.
        activates: Timestamp,
    },
    /// The store holds no usable root.
    #[error("the store holds no active root")]
    NoActiveRoot,
    /// A stored certificate or key cannot be read.
    #[error("a stored root is damaged; restore the data folder from a backup")]
    RootDamaged,
    /// Others changed the same record again and again.
    #[error("`{record}` is being changed by others; try again")]
    Contended {
        /// The record.
        record: &'static str,
    },
    /// A certificate cannot be issued for this request.
    #[error("the certificate request was refused")]
    Certificate(#[from] X509Error),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The event could not be recorded, so nothing is handed out.
    #[error("the event could not be recorded")]
    NotRecorded(#[from] EventNotRecorded),
}

impl WorkloadError {
    /// The stable code of the error, with a page in `docs/errors`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::JoinTokenUnknown => "workload.join_token_unknown",
            Self::JoinTokenUsed { .. } => "workload.join_token_used",
            Self::JoinTokenExpired { .. } => "workload.join_token_expired",
            Self::NotRegistered { .. } => "workload.not_registered",
            Self::Revoked { .. } => "workload.revoked",
            Self::CertificateEnded { .. } => "workload.certificate_ended",
            Self::NotTheGateway { .. } => "workload.not_the_gateway",
            Self::NameNotAllowed { .. } => "workload.name_not_allowed",
            Self::NameMalformed { .. } => "workload.name_malformed",
            Self::InstanceTaken { .. } => "workload.instance_taken",
            Self::RotationUnderWay { .. } => "workload.rotation_under_way",
            Self::NoActiveRoot => "workload.no_active_root",
            Self::RootDamaged => "workload.root_damaged",
            Self::Contended { .. } => "workload.contended",
            Self::Certificate(_) => "workload.certificate_refused",
            Self::Store(_) => "workload.store",
            Self::NotRecorded(_) => "workload.not_recorded",
        }
    }

    /// Whether the caller was refused, as opposed to the control plane having failed.
    pub const fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::NoActiveRoot
                | Self::RootDamaged
                | Self::Contended { .. }
                | Self::Store(_)
                | Self::NotRecorded(_)
        )
    }
}
