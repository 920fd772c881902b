//! `testudo login`, `logout` and `token`.

use std::{
    io::{self, BufRead, IsTerminal},
    process::{Command, Stdio},
    time::Duration,
};

use testudo_controlplane::{
    Redacted, SystemEntropy,
    client::{begin_browser_login, log_in_with_password, revoke},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::Invocation;
use crate::{
    cli::LoginArguments,
    failure::{Exit, Failure, Outcome},
    output::say,
};

/// How long the browser may take.
const BROWSER_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest request line read from the browser.
const MAX_REQUEST_LINE: u64 = 8 * 1024;

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
        None => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let redirect = format!(
                "http://127.0.0.1:{}/callback",
                listener.local_addr()?.port()
            );
            let login = begin_browser_login(&arguments.scope, &redirect, &SystemEntropy);
            let address = format!(
                "{}{}",
                invocation.context.server_url()?,
                login.authorize_path
            );
            let opened = !arguments.no_browser && open_browser(&address);
            say(if opened {
                "Log in in the browser window."
            } else {
                "Open this address in a browser:"
            });
            say(format!("  {address}"));
            let query = tokio::time::timeout(BROWSER_TIMEOUT, receive_redirect(&listener)).await;
            let query = query.map_err(|_| {
                Failure::new(Exit::Failed, "nobody logged in within five minutes")
            })??;
            login.finish(&connection, &query).await?
        }
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

/// Reads a password from the terminal without echo, or a line of standard input.
pub fn read_password(prompt: &str) -> Result<Redacted<String>, Failure> {
    let mut line = if io::stdin().is_terminal() {
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

/// Waits for the browser to come back and returns the query of the redirect. Other requests (icons) get 404.
async fn receive_redirect(listener: &TcpListener) -> io::Result<String> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let Some(target) = request_target(&mut stream).await? else {
            continue;
        };
        match target.strip_prefix("/callback?") {
            Some(query) => {
                respond(
                    &mut stream,
                    "200 OK",
                    "You are logged in. You can close this window.",
                )
                .await?;
                return Ok(query.to_owned());
            }
            None => respond(&mut stream, "404 Not Found", "Nothing here.").await?,
        }
    }
}

async fn request_target(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut line = String::new();
    let mut reader = BufReader::new(tokio::io::AsyncReadExt::take(
        &mut *stream,
        MAX_REQUEST_LINE,
    ));
    reader.read_line(&mut line).await?;
    let mut words = line.split(' ');
    Ok((words.next() == Some("GET"))
        .then(|| words.next().map(str::to_owned))
        .flatten())
}

async fn respond(stream: &mut TcpStream, status: &str, text: &str) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
