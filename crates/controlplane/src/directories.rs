//! The directories that the fleet file declares: asked at logins, and now and then about who is still there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use testudo_identity::{AdminError, Caller, DirectoryLogin, DirectoryUser, LoggedIn, LoginError};
use testudo_model::{Redacted, event::Actor};
use testudo_runtime::{Drain, fleet::Directory, with_causes};
use tracing::warn;

use crate::{
    http::Refusal,
    ldap::{DirectoryClient, DirectoryError},
    plane::Plane,
};

/// How often it is looked whether a directory is due.
const LOOK: Duration = Duration::from_millis(500);

/// The directories in force.
#[derive(Default)]
pub struct Directories(RwLock<BTreeMap<String, Arc<DirectoryClient>>>);

impl Directories {
    /// Asks these and no others. Connections to those before end when nobody uses them any more.
    pub fn declare(&self, declared: &[Directory]) {
        let clients = declared.iter().map(|directory| {
            let client = DirectoryClient::new(directory.clone());
            (directory.name.clone(), Arc::new(client))
        });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = clients.collect();
    }

    fn get(&self, name: &str) -> Option<Arc<DirectoryClient>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(name).map(Arc::clone)
    }

    /// Whether there are any.
    pub fn are_declared(&self) -> bool {
        !self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    fn all(&self) -> Vec<Arc<DirectoryClient>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.values().map(Arc::clone).collect()
    }
}

/// Who sent a login form.
pub struct Sender {
    /// The session cookie the browser may have.
    pub session: Option<String>,
    /// Who asks.
    pub caller: Caller,
}

/// Asks the directories of a login, one after the other, whether the password is right.
pub async fn log_in(
    plane: &Arc<Plane>,
    asked: DirectoryLogin,
    password: &Redacted<String>,
    sender: Sender,
) -> Result<Result<LoggedIn, LoginError>, Refusal> {
    let mut why = "unknown name or wrong password".to_owned();
    for name in asked.directories().to_vec() {
        let Some(client) = plane.directories.get(&name) else {
            continue;
        };
        match client.log_in(asked.username(), password).await {
            Ok(None) => {}
            Ok(Some(entry)) => {
                let finishing = plane.blocking(move |plane| {
                    let (session, caller) = (sender.session.as_deref(), &sender.caller);
                    let provider = &plane.provider;
                    provider.finish_directory_login(&asked, &name, &entry, session, caller)
                });
                return finishing.await;
            }
            Err(error) => {
                warn!(
                    directory = name,
                    error = with_causes(&error),
                    "a directory cannot be asked"
                );
                why = format!("{name}: {error}");
            }
        }
    }
    let refusing = plane.blocking(move |plane| {
        let provider = &plane.provider;
        provider.refuse_directory_login(&asked, &why, &sender.caller)
    });
    Ok(Err(refusing.await?))
}

/// Looks who is still there until the process drains.
pub async fn keep_up(plane: Arc<Plane>, drain: Drain) {
    let mut watch = drain.watch();
    let mut looked: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        for client in plane.directories.all() {
            let declared = client.declared();
            let every = declared.section.refresh.duration();
            // The first look is one interval after the start: logins have asked by then who asks.
            let last = *looked
                .entry(declared.name.clone())
                .or_insert_with(Instant::now);
            if last.elapsed() < every {
                continue;
            }
            let looking = tokio::select! {
                () = watch.drained() => return,
                looking = look(&plane, &client) => looking,
            };
            if let Err(error) = looking {
                warn!(
                    directory = declared.name,
                    error = with_causes(&*error),
                    "who is still in a directory cannot be told: all stay as they are"
                );
            }
            looked.insert(declared.name.clone(), Instant::now());
        }
        tokio::select! {
            () = watch.drained() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A directory in which nobody is at all.
#[derive(Debug, thiserror::Error)]
#[error("it knows nobody, which is taken for a fault of it or of `user_filter`")]
struct KnowsNobody;

async fn look(plane: &Arc<Plane>, client: &Arc<DirectoryClient>) -> Result<(), Failure> {
    let name = client.declared().name.clone();
    let of = name.clone();
    let users = plane.blocking(move |plane| plane.provider.directory_users(&of));
    let users = users.await.map_err(|_| DirectoryError::Busy)??;
    if users.is_empty() {
        return Ok(());
    }
    let there: BTreeSet<String> = client.ids().await?.into_iter().collect();
    if there.is_empty() {
        return Err(KnowsNobody.into());
    }
    for user in users {
        let entry = match there.contains(&user.id) {
            true => client.look_up(&user.id).await?,
            false => None,
        };
        follow(plane, &name, user, entry).await?;
    }
    Ok(())
}

async fn follow(
    plane: &Arc<Plane>,
    name: &str,
    user: DirectoryUser,
    entry: Option<testudo_identity::DirectoryEntry>,
) -> Result<(), Failure> {
    let name = name.to_owned();
    let caller = Caller {
        actor: Actor {
            client: Some(format!("directory {name}")),
            ..Actor::default()
        },
        ..Caller::default()
    };
    let following = plane.blocking(move |plane| {
        let provider = &plane.provider;
        provider.follow_directory(&name, &user, entry.as_ref(), &caller)
    });
    match following.await.map_err(|_| DirectoryError::Busy)? {
        Ok(()) => Ok(()),
        Err(AdminError::Unavailable(fault)) => Err(fault.into()),
        Err(error) => {
            warn!(
                error = with_causes(&error),
                "a user of a directory cannot be brought up to date"
            );
            Ok(())
        }
    }
}
