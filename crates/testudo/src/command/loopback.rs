//! Where a browser comes back to after a login: a listener on the loopback interface (RFC 8252 section 7.3).

use std::{io, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

const CALLBACK_PATH: &str = "/callback";
/// Longest head of a request; the cookies of everything else on this machine's loopback interface come along.
const MAX_HEAD_BYTES: u64 = 64 * 1024;
/// Connections read at the same time. Browsers open some ahead of need and say nothing on them.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may take to say what it wants.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

const PAGE: &str = include_str!("returned.html");
/// The one style sheet is named by its hash: no other would be applied, and nothing is loaded or run.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; img-src data:; \
     style-src 'sha256-x/Om4+/t9Va3K9nBKofPGaw0q42A9jAywkFmy1TUB4M='; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The listener.
pub struct Loopback {
    listener: TcpListener,
    redirect_uri: String,
}

/// A browser that came back with the answer and waits for a page.
pub struct Returned {
    /// Query of the redirect.
    pub query: String,
    stream: TcpStream,
}

impl Loopback {
    /// Listens on a port the system chooses.
    pub async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let redirect_uri = format!("http://{}{CALLBACK_PATH}", listener.local_addr()?);
        Ok(Self {
            listener,
            redirect_uri,
        })
    }

    /// Where the browser is to be sent.
    pub fn redirect_uri(&self) -> &str {
        &self.redirect_uri
    }

    /// Waits for a redirect whose query `belongs` to the login. Any page in the browser can call this listener, so
    /// other requests get an error and change nothing.
    pub async fn wait(&self, belongs: impl Fn(&str) -> bool) -> io::Result<Returned> {
        let mut readers = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if readers.len() < MAX_CONNECTIONS => {
                    let (stream, _) = accepted?;
                    readers.spawn(timeout(READ_TIMEOUT, read_target(stream)));
                }
                Some(read) = readers.join_next() => {
                    // Whoever closed, dawdled or spoke no HTTP is gone and was not the browser with the answer.
                    let Ok(Ok(Ok(Some((target, mut stream))))) = read else { continue };
                    let query = target.strip_prefix(CALLBACK_PATH).and_then(|rest| rest.strip_prefix('?'));
                    let refused = match query {
                        Some(query) if belongs(query) => {
                            return Ok(Returned { query: query.to_owned(), stream });
                        }
                        Some(_) => respond(
                            &mut stream,
                            "400 Bad Request",
                            "This is not the login that is waited for",
                            "Start again with <code>testudo login</code>, or go on in the other window.",
                        ),
                        None => respond(&mut stream, "404 Not Found", "Nothing here", ""),
                    };
                    // It is theirs if they do not wait for the answer.
                    let _ = refused.await;
                }
            }
        }
    }
}

impl Returned {
    /// Shows how the login ended.
    pub async fn show(mut self, logged_in: bool) -> io::Result<()> {
        let (status, heading, text) = if logged_in {
            ("200 OK", "You are logged in", "You may close this window.")
        } else {
            (
                "400 Bad Request",
                "You are not logged in",
                "The terminal says why. You may close this window.",
            )
        };
        respond(&mut self.stream, status, heading, text).await
    }
}

/// Reads the head of a request; the target if it is a `GET`. The head is read whole: closing a connection with
/// unread bytes resets it, and the answer with it.
async fn read_target(mut stream: TcpStream) -> io::Result<Option<(String, TcpStream)>> {
    let mut lines = BufReader::new((&mut stream).take(MAX_HEAD_BYTES)).lines();
    let request_line = lines.next_line().await?.unwrap_or_default();
    while lines
        .next_line()
        .await?
        .is_some_and(|line| !line.is_empty())
    {}
    let target = request_line
        .strip_prefix("GET ")
        .and_then(|rest| rest.split(' ').next());
    Ok(target.map(|target| (target.to_owned(), stream)))
}

/// Sends a page. `heading` and `text` are markup of this file: nothing from outside is put into a page.
async fn respond(
    stream: &mut TcpStream,
    status: &str,
    heading: &'static str,
    text: &'static str,
) -> io::Result<()> {
    let page = PAGE.replace("{heading}", heading).replace("{text}", text);
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Content-Security-Policy: {CONTENT_SECURITY_POLICY}\r\nX-Content-Type-Options: nosniff\r\n\
         Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn the_style_sheet_is_the_one_the_policy_names() {
        let (_, rest) = PAGE.split_once("<style>").unwrap();
        let (style, _) = rest.split_once("</style>").unwrap();
        let hash = STANDARD.encode(testudo_trust::sha256(style.as_bytes()));
        assert!(
            CONTENT_SECURITY_POLICY.contains(&format!("'sha256-{hash}'")),
            "it is now sha256-{hash}"
        );
    }
}
