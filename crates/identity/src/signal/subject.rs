//! Whom a receiver wants to hear of (SSF 1.0 section 8.1.3). Without a word of its own, of everybody.

use serde_json::{Map, Value};
use testudo_model::UserId;
use testudo_store::{Expected, Versioned};

use super::{
    configuration::stream_report,
    receiver::{Receiver, SignalError, object, stream_id, text},
};
use crate::{
    Caller, Fault, Provider,
    change::until_settled,
    limits::{MAX_REDIRECT_URI_BYTES, MAX_REMOVED_SUBJECTS},
    records::User,
};

/// A stream and a subject.
pub(super) struct SubjectRequest {
    stream: String,
    /// None if it cannot be somebody of ours.
    user: Option<UserId>,
}

impl SubjectRequest {
    /// Reads a request, as the provider `issuer` understands subjects.
    pub(super) fn parse(body: &[u8], issuer: &str) -> Result<Self, SignalError> {
        let request = object(body)?;
        let subject = request.get("subject").and_then(Value::as_object);
        let subject = subject.ok_or_else(|| SignalError::invalid("`subject` is no object"))?;
        Ok(Self {
            stream: stream_id(&request)?.to_owned(),
            user: user_of(subject, issuer)?,
        })
    }
}

/// The user that a subject identifier is of (RFC 9493, SSF 1.0 section 3.3).
fn user_of(subject: &Map<String, Value>, issuer: &str) -> Result<Option<UserId>, SignalError> {
    let format = text(subject, "format", MAX_REDIRECT_URI_BYTES)?;
    match format {
        Some("iss_sub") => simple(subject, issuer),
        // A complex one that says more than who is not a user, but one of their sessions or devices.
        Some("complex") => {
            let members = subject.keys().filter(|name| *name != "format");
            let user = subject.get("user").and_then(Value::as_object);
            match (members.count(), user) {
                (1, Some(user)) => user_of(user, issuer),
                _ => Err(unsupported()),
            }
        }
        _ => Err(unsupported()),
    }
}

fn simple(subject: &Map<String, Value>, issuer: &str) -> Result<Option<UserId>, SignalError> {
    let member = |name: &str| {
        let value = text(subject, name, MAX_REDIRECT_URI_BYTES)?;
        value.ok_or_else(|| SignalError::invalid(format!("the subject has no `{name}`")))
    };
    let (iss, sub) = (member("iss")?, member("sub")?);
    Ok(sub.parse().ok().filter(|_| iss == issuer))
}

fn unsupported() -> SignalError {
    SignalError::invalid(
        "a subject is a user in the format `iss_sub`, alone or as `user` of `complex`",
    )
}

impl Provider {
    /// Tells a receiver of this user again. Nobody learns from the answer whether there is such a user.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn add_signal_subject(
        &self,
        receiver: &Receiver,
        body: &[u8],
        caller: &Caller,
    ) -> Result<(), SignalError> {
        self.set_subject(receiver, body, true, caller)
    }

    /// Tells a receiver nothing of this user any more. Nobody learns from the answer whether there is such a user.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn remove_signal_subject(
        &self,
        receiver: &Receiver,
        body: &[u8],
        caller: &Caller,
    ) -> Result<(), SignalError> {
        self.set_subject(receiver, body, false, caller)
    }

    fn set_subject(
        &self,
        receiver: &Receiver,
        body: &[u8],
        wanted: bool,
        caller: &Caller,
    ) -> Result<(), SignalError> {
        let request = SubjectRequest::parse(body, &self.settings.issuer)?;
        until_settled(|| {
            let stored = self.stream_of(receiver, &request.stream)?;
            let Versioned {
                record: mut stream,
                version,
            } = stored;
            let Some(user) = &request.user else {
                return Ok(Some(()));
            };
            let known = self
                .tenant
                .get::<User>(user.as_str())
                .map_err(Fault::from)?;
            let changes = if wanted {
                stream.removed_subjects.remove(user)
            } else {
                known.is_some() && stream.removed_subjects.insert(user.clone())
            };
            if !changes {
                return Ok(Some(()));
            }
            if stream.removed_subjects.len() > MAX_REMOVED_SUBJECTS {
                return Err(SignalError::invalid(format!(
                    "at most {MAX_REMOVED_SUBJECTS} subjects can be removed from a stream"
                )));
            }
            let activity = if wanted {
                "signal_stream.subject_add"
            } else {
                "signal_stream.subject_remove"
            };
            let report = stream_report(activity, receiver, &stream).detail("user", user.as_str());
            let change = self
                .change()
                .put(Expected::Version(version), &stream)
                .report(report, caller);
            Ok(change.commit()?.then_some(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://id.example";

    fn user(subject: Value) -> Result<Option<UserId>, SignalError> {
        user_of(subject.as_object().unwrap(), ISSUER)
    }

    #[test]
    fn a_subject_is_a_user_of_this_provider() {
        let sub = "usr_01M81HMGYM22EDG0E1P8MDBNEY";
        let ours = json!({ "format": "iss_sub", "iss": ISSUER, "sub": sub });
        assert_eq!(user(ours.clone()).unwrap(), Some(sub.parse().unwrap()));
        let complex = json!({ "format": "complex", "user": ours });
        assert_eq!(user(complex.clone()).unwrap(), Some(sub.parse().unwrap()));
        let elsewhere =
            json!({ "format": "iss_sub", "iss": "https://id.example/tenants/x", "sub": sub });
        assert_eq!(user(elsewhere).unwrap(), None);
        let nobody = json!({ "format": "iss_sub", "iss": ISSUER, "sub": "nobody" });
        assert_eq!(user(nobody).unwrap(), None);
        let mut session = complex;
        session["session"] = json!({ "format": "opaque", "id": "ses" });
        for wrong in [
            session,
            json!({ "format": "email", "email": "alice@example.com" }),
            json!({ "format": "iss_sub", "iss": ISSUER }),
            json!({ "format": "complex" }),
            json!({ "format": "complex", "user": "x" }),
            json!({}),
        ] {
            assert!(user(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
