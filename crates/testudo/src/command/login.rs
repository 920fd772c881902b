//! `testudo login`, `logout` and `token`.

use std::{
    io::{self, BufRead, IsTerminal},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::termios::OptionalActions;
use testudo_controlplane::{
    Redacted, SystemEntropy,
    client::{Connection, TokenSet, begin_browser_login, log_in_with_password, revoke},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::{Invocation, loopback::Loopback};
use crate::{
    cli::LoginArguments,
    failure::{Exit, Failure, Outcome},
    output::say,
};

/// How long the browser may take.
const BROWSER_TIMEOUT: Duration = Duration::from_secs(300);
/// What shells say of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// `testudo login`.
pub async fn login(invocation: &Invocation, arguments: LoginArguments) -> Outcome {
    let connection = invocation.context.https()?;
    let tokens = match &arguments.username {
        Some(username) => {
            let password = read_password(&format!("Password for {username}: "))?;
            log_in_with_password(
                &connection,
                username,
                &password,
                &arguments.scope,
                &SystemEntropy,
            )
            .await?
        }
        None => log_in_with_browser(invocation, &connection, &arguments).await?,
    };
    invocation.context.remember_login(tokens)?;
    say("You are logged in. `testudo token` prints an access token.");
    Ok(())
}

/// `testudo logout`.
pub async fn logout(invocation: &Invocation) -> Outcome {
    let connection = invocation.context.https()?;
    if let Some(refresh_token) = invocation.context.forget_login()? {
        revoke(&connection, &refresh_token).await?;
    }
    say("You are logged out.");
    Ok(())
}

/// `testudo token`.
pub async fn token(invocation: &Invocation) -> Outcome {
    let token = invocation.context.access_token().await?;
    Ok(invocation.output.line(token)?)
}

/// Sends the browser to the login page and waits until it comes back.
async fn log_in_with_browser(
    invocation: &Invocation,
    connection: &Connection,
    arguments: &LoginArguments,
) -> Result<TokenSet, Failure> {
    let loopback = Loopback::bind().await?;
    let login = begin_browser_login(&arguments.scope, loopback.redirect_uri(), &SystemEntropy);
    let server = invocation.context.server_url()?;
    let address = format!("{server}{}{}", connection.base(), login.authorize_path);
    let opened = !arguments.no_browser && open_browser(&address);
    say(if opened {
        "Log in in the browser window."
    } else {
        "Open this address in a browser:"
    });
    say(format!("  {address}"));
    let answer = loopback.wait(|query| login.is_answer(query));
    let returned = timeout(BROWSER_TIMEOUT, answer)
        .await
        .map_err(|_| Failure::new(Exit::Failed, "nobody logged in within five minutes"))??;
    let finished = login.finish(connection, &returned.query).await;
    // The login counts even if the browser has gone.
    let _ = returned.show(finished.is_ok()).await;
    Ok(finished?)
}

/// Reads a password from the terminal without echo, or a line of standard input.
pub fn read_password(prompt: &str) -> Result<Redacted<String>, Failure> {
    let mut line = if io::stdin().is_terminal() {
        end_audibly()?;
        rpassword::prompt_password(prompt)?
    } else {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        line
    };
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    if line.is_empty() {
        return Err(Failure::new(Exit::Failed, "no password was given"));
    }
    Ok(Redacted::new(line))
}

/// Has an interrupt turn echo on again before it ends the process: the shell behind us would stay mute.
fn end_audibly() -> io::Result<()> {
    let terminal = rustix::termios::tcgetattr(io::stdin())?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        interrupts.recv().await;
        // Nobody is left to tell if the terminal is gone.
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &terminal);
        say("");
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

fn open_browser(address: &str) -> bool {
    let opener = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    let mut command = Command::new(opener);
    command
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().is_ok()
}
