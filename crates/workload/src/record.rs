//! Reading, changing and writing one record against others who do the same.

use testudo_store::{Expected, Record, StoreError, Tenant};

use crate::WorkloadError;

/// Attempts before the caller is told to come again. Each lost attempt means that somebody else made progress.
const MAX_ATTEMPTS: usize = 64;

/// What to do with a record that was read.
pub(crate) enum Amendment<R, T> {
    /// Leave it as it is.
    Keep(T),
    /// Write this, if nobody wrote meanwhile; then answer.
    Write(R, T),
}

/// Reads the record at `key`, lets `change` decide and writes; starts over when somebody else was faster.
pub(crate) fn amend<R: Record, T>(
    tenant: &Tenant,
    key: &str,
    mut change: impl FnMut(Option<R>) -> Result<Amendment<R, T>, WorkloadError>,
) -> Result<T, WorkloadError> {
    for _ in 0..MAX_ATTEMPTS {
        let current = tenant.get::<R>(key)?;
        let expected = current.as_ref().map_or(Expected::Absent, |current| {
            Expected::Version(current.version)
        });
        let (next, answer) = match change(current.map(|current| current.record))? {
            Amendment::Keep(answer) => return Ok(answer),
            Amendment::Write(next, answer) => (next, answer),
        };
        match tenant.put(expected, &next) {
            Ok(_) => return Ok(answer),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(WorkloadError::Contended {
        record: R::COLLECTION,
    })
}
