//! Programs that `testudo up` starts for the services' `run` tables, and stops again.

use std::{io, net::SocketAddr, process::Stdio, time::Duration};

use testudo_controlplane::ServiceName;
use testudo_runtime::{
    Drain, Tasks,
    fleet::{Fleet, RunCommand},
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};
use tracing::{info, warn};

use super::bound::{ask_to_stop, bound};
use crate::{
    failure::{Exit, Failure},
    output::say,
};

/// When to say what is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a program may take until it listens: the example's are built first.
const START_DEADLINE: Duration = Duration::from_secs(300);
/// How long a program may take to stop when it is asked to.
const STOP_DEADLINE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(100);

/// Programs to start.
#[derive(Default)]
pub struct Children {
    children: Vec<(ServiceName, String, Command)>,
}

impl Children {
    /// Adds the program of a service. Its outgoing calls go through the sidecar: `HTTP_PROXY`.
    pub fn add(
        &mut self,
        name: &ServiceName,
        run: &RunCommand,
        outbound: SocketAddr,
    ) -> io::Result<()> {
        let mut command = bound(run.program.as_ref())?;
        let proxy = format!("http://{outbound}");
        command
            .args(&run.arguments)
            .env("HTTP_PROXY", &proxy)
            .env("http_proxy", &proxy)
            .envs(&run.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        if let Some(directory) = &run.directory {
            command.current_dir(directory);
        }
        self.children
            .push((name.clone(), run.program.clone(), command));
        Ok(())
    }

    /// Starts them one after the other and waits until each listens.
    pub async fn start(self, tasks: &Tasks, drain: &Drain, fleet: &Fleet) -> Result<(), Failure> {
        for (name, program, mut command) in self.children {
            let upstream = fleet
                .services
                .iter()
                .find(|service| service.name == name)
                .map(|service| service.upstream);
            if let Some(upstream) = upstream {
                refuse_strangers(&name, upstream).await?;
            }
            let mut child = command.spawn().map_err(|error| {
                Failure::new(
                    Exit::Failed,
                    format!("cannot start `{program}` for service {name}: {error}"),
                )
                .help("correct `run` in the fleet file, or start it yourself and use --no-run")
            })?;
            if let Some(upstream) = upstream {
                tokio::select! {
                    ended = child.wait() => {
                        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                        let error = format!("the program of service {name} ended at its start: {how}");
                        return Err(Failure::new(Exit::Failed, error)
                            .help("correct `run` in the fleet file, or start it yourself and use --no-run"));
                    }
                    listening = tokio::time::timeout(START_DEADLINE, told(&name, &program, upstream)) => {
                        listening.map_err(|_| {
                            let minutes = START_DEADLINE.as_secs() / 60;
                            let error = format!("service {name} does not listen on {upstream} after {minutes} minutes");
                            Failure::new(Exit::Failed, error)
                                .help("correct `run` or `upstream` in the fleet file, or start it yourself and use --no-run")
                        })?;
                    }
                }
            }
            info!(service = %name, "its program runs");
            let mut watch = drain.watch();
            tasks.spawn(format!("program of {name}"), async move {
                tokio::select! {
                    () = watch.drained() => stop(&mut child).await,
                    ended = child.wait() => warn!(?ended, "a program ended by itself"),
                }
            });
        }
        Ok(())
    }
}

/// Asks the program to stop, so that it can end its own children; then ends it.
async fn stop(child: &mut Child) {
    ask_to_stop(child);
    let ended = tokio::time::timeout(STOP_DEADLINE, child.wait()).await;
    if ended.is_err()
        && let Err(error) = child.kill().await
    {
        warn!(%error, "a program could not be stopped");
    }
}

/// Whoever listens there already would be taken for the service.
async fn refuse_strangers(name: &ServiceName, upstream: SocketAddr) -> Result<(), Failure> {
    if TcpStream::connect(upstream).await.is_err() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!("something else listens on {upstream}, where service {name} should"),
    )
    .help("stop it; or, if it is the service, use --no-run"))
}

/// Waits until the service listens, and says so if that takes long.
async fn told(name: &ServiceName, program: &str, upstream: SocketAddr) {
    if tokio::time::timeout(PATIENCE, listens(upstream))
        .await
        .is_err()
    {
        say(format!(
            "waiting for {name} on {upstream} (`{program}` was started) …"
        ));
        listens(upstream).await;
    }
}

async fn listens(address: SocketAddr) {
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(LOOK).await;
    }
}
