//! Errors of the rooms as gRPC statuses. The text goes to a proxy's log; it names no other workload's secrets.

use testudo_audit::IntakeError;
use testudo_runtime::with_causes;
use testudo_workload::WorkloadError;
use tonic::{Code, Status};

/// What a workload error is on the wire.
pub(super) fn of_workload(error: &WorkloadError) -> Status {
    let code = match error {
        WorkloadError::JoinTokenUnknown
        | WorkloadError::JoinTokenUsed { .. }
        | WorkloadError::JoinTokenExpired { .. }
        | WorkloadError::CertificateEnded { .. } => Code::Unauthenticated,
        WorkloadError::NotRegistered { .. }
        | WorkloadError::Revoked { .. }
        | WorkloadError::NotTheGateway { .. }
        | WorkloadError::NameNotAllowed { .. }
        | WorkloadError::InstanceTaken { .. } => Code::PermissionDenied,
        WorkloadError::NameMalformed { .. } | WorkloadError::Certificate(_) => {
            Code::InvalidArgument
        }
        WorkloadError::Contended { .. } | WorkloadError::RotationUnderWay { .. } => Code::Aborted,
        WorkloadError::NoActiveRoot
        | WorkloadError::RootDamaged
        | WorkloadError::Store(_)
        | WorkloadError::NotRecorded(_) => {
            tracing::error!(error = with_causes(error), "workload room failed");
            return Status::unavailable("the control plane cannot do this at the moment");
        }
    };
    Status::new(code, error.to_string())
}

/// What an intake error is on the wire: `FAILED_PRECONDITION` says that the same block will never be taken.
pub(super) fn of_intake(error: &IntakeError) -> Status {
    let code = match error {
        IntakeError::Ledger(_) => {
            tracing::error!(error = with_causes(error), "ledger failed");
            return Status::unavailable("the ledger cannot take events at the moment");
        }
        error if error.is_permanent() => Code::FailedPrecondition,
        _ => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}
