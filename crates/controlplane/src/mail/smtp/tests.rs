//! Mail servers that are not what they should be.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use testudo_identity::{Mail, MailContent};
use testudo_model::{Clock, Redacted};
use testudo_runtime::SystemClock;
use testudo_testkit::SeededEntropy;
use testudo_trust::{RootKey, WebCertificate, web_server_config};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    mail::letter,
    plane::{Plane, PlaneOptions},
    proxies::own_identity,
};

/// A server's part: what it says, each after a line of the client's, and after `STARTTLS` perhaps over TLS.
struct Part {
    greeting: &'static str,
    answers: Vec<(&'static str, &'static str)>,
    tls: Option<TlsAcceptor>,
}

/// All that was heard in the clear, and all over TLS.
#[derive(Default)]
struct Heard {
    clear: String,
    secret: String,
}

struct Stage {
    roots: Roots,
    acceptor: TlsAcceptor,
    heard: Arc<Mutex<Heard>>,
}

const OFFER: &str = "250-mail.example\r\n250-STARTTLS\r\n250 8BITMIME\r\n";
const SECURE_OFFER: &str = "250-mail.example\r\n250 AUTH PLAIN LOGIN\r\n";

impl Stage {
    /// One where the server's certificate is for `name`.
    fn set(folder: &Path, name: &str) -> Self {
        let plane = Plane::open(PlaneOptions {
            data: folder.to_owned(),
            root_key: RootKey::from_bytes([1; 32]),
            trust_domain: "bookshop.example".parse().unwrap(),
            issuer: "https://localhost:9443".to_owned(),
            grpc_address: "127.0.0.1:9444".to_owned(),
            clock: Arc::new(SystemClock::new()),
            entropy: SeededEntropy::new(1),
        });
        let plane = plane.unwrap();
        let issued = plane.workloads.issue_local_web(&[name.to_owned()]);
        let issued = issued.unwrap();
        let certificate = WebCertificate::issued(&issued.chain, &issued.key).unwrap();
        Self {
            roots: Roots::new(own_identity(&plane.workloads).unwrap()),
            acceptor: TlsAcceptor::from(web_server_config(certificate, false, &[])),
            heard: Arc::default(),
        }
    }

    /// Sends a letter to a server that plays `part`.
    async fn play(
        &self,
        security: MailSecurity,
        is_encrypted: bool,
        part: Part,
    ) -> Result<(), SmtpError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::clone(&self.heard);
        let playing: JoinHandle<()> = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            if is_encrypted {
                let acceptor = part.tls.clone().unwrap();
                if let Ok(stream) = acceptor.accept(stream).await {
                    speak(stream, &part, &heard, true).await;
                }
            } else if let Some(stream) = speak(stream, &part, &heard, false).await
                && let Some(acceptor) = part.tls.clone()
                && let Ok(stream) = acceptor.accept(stream).await
            {
                let silent = Part {
                    greeting: "",
                    ..part
                };
                speak(stream, &silent, &heard, true).await;
            }
        });
        let server = MailServer {
            host: "localhost".to_owned(),
            port,
            security,
            credentials: Some(("fleet".to_owned(), Redacted::new("hunter2".to_owned()))),
            from: "no-reply@bookshop.example".to_owned(),
            from_name: "Bücher, \"& Co\"".to_owned(),
            ca_pem: None,
        };
        let letter = letter(&server);
        let sent = send(&server, &self.roots, "id.bookshop.example", &letter);
        let sent = tokio::time::timeout(Duration::from_secs(20), sent).await;
        playing.abort();
        sent.expect("it comes to an end")
    }

    fn heard(&self) -> Heard {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn letter(server: &MailServer) -> Message {
    let clock = SystemClock::new();
    let mail = Mail {
        id: "ntc_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
        to: "alice@bookshop.example".to_owned(),
        username: "alice".parse().unwrap(),
        tenant: testudo_model::TenantName::default_tenant(),
        content: MailContent::ResetPassword {
            link: Redacted::new("https://localhost:9443/reset-password?code=abc".to_owned()),
            expires_at: clock.now(),
        },
    };
    letter::write(&mail, server, "bookshop.example", clock.now()).unwrap()
}

/// Plays a part until it has nothing more to say; the stream, if TLS is to begin on it.
async fn speak<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    part: &Part,
    heard: &Mutex<Heard>,
    is_secret: bool,
) -> Option<S> {
    let mut stream = BufReader::new(stream);
    stream.write_all(part.greeting.as_bytes()).await.ok()?;
    let mut is_in_letter = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        {
            let mut heard = heard.lock().unwrap();
            match is_secret {
                true => heard.secret.push_str(&line),
                false => heard.clear.push_str(&line),
            }
        }
        let key = match is_in_letter {
            true if line == ".\r\n" => ".",
            true => continue,
            false => line.split([' ', '\r']).next().unwrap(),
        };
        let key = match is_secret {
            true => format!("secret {key}"),
            false => key.to_owned(),
        };
        let known = part.answers.iter().find(|(known, _)| *known == key);
        let answer = known.map_or("250 ok\r\n", |(_, answer)| answer);
        is_in_letter = key.ends_with("DATA") && answer.starts_with('3');
        stream.write_all(answer.as_bytes()).await.ok()?;
        if key == "STARTTLS" && answer == "220 go\r\n" {
            return Some(stream.into_inner());
        }
    }
}

impl Stage {
    fn part(&self, answers: &[(&'static str, &'static str)]) -> Part {
        let usual = [
            ("EHLO", OFFER),
            ("STARTTLS", "220 go\r\n"),
            ("secret EHLO", SECURE_OFFER),
            ("secret AUTH", "235 welcome\r\n"),
            ("secret DATA", "354 go on\r\n"),
            ("DATA", "354 go on\r\n"),
        ];
        Part {
            greeting: "220 mail.example\r\n",
            answers: [answers, &usual].concat(),
            tls: Some(self.acceptor.clone()),
        }
    }
}

#[tokio::test]
async fn a_letter_goes_over_tls_with_the_password_before_it_and_nothing_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::set(folder.path(), "localhost");
    let part = stage.part(&[]);
    stage
        .play(MailSecurity::StartTls, false, part)
        .await
        .unwrap();
    let heard = stage.heard();
    assert_eq!(heard.clear, "EHLO id.bookshop.example\r\nSTARTTLS\r\n");
    for said in [
        "EHLO id.bookshop.example\r\nAUTH PLAIN AGZsZWV0AGh1bnRlcjI=\r\n",
        "MAIL FROM:<no-reply@bookshop.example>",
        "RCPT TO:<alice@bookshop.example>\r\n",
        "Message-ID: <ntc_01ARZ3NDEKTSV4RRFFQ69G5FAV@bookshop.example>\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "To: alice@bookshop.example\r\n",
        "Content-Type: multipart/alternative",
        "QUIT\r\n",
    ] {
        assert!(heard.secret.contains(said), "{said} in {}", heard.secret);
    }
    let part = stage.part(&[]);
    stage.play(MailSecurity::Tls, true, part).await.unwrap();
    assert!(stage.heard().secret.contains("RCPT TO:<alice@"));
}

#[tokio::test]
async fn without_starttls_nothing_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::set(folder.path(), "localhost");
    let offers = [
        ("EHLO", "250-mail.example\r\n250 AUTH PLAIN\r\n"),
        // In a greeting it is no offer.
        ("EHLO", "250 STARTTLS\r\n"),
        (
            "EHLO",
            "250-STARTTLS\r\n250-XSTARTTLS\r\n250 AUTH PLAIN\r\n",
        ),
        ("STARTTLS", "454 not now\r\n"),
        ("STARTTLS", "250 ok\r\n"),
        ("EHLO", "502 what?\r\n"),
    ];
    for offer in offers {
        let part = stage.part(&[offer]);
        let error = stage
            .play(MailSecurity::StartTls, false, part)
            .await
            .unwrap_err();
        assert!(!error.is_final(), "{error}");
        let heard = stage.heard();
        assert!(!heard.clear.contains("AUTH"), "{}", heard.clear);
        assert!(!heard.clear.contains("MAIL"), "{}", heard.clear);
        assert_eq!(heard.secret, "");
    }
}

#[tokio::test]
async fn what_somebody_puts_before_tls_is_not_heard_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::set(folder.path(), "localhost");
    for (command, answer) in [
        (
            "STARTTLS",
            "220 go\r\n250-mail.example\r\n250 AUTH PLAIN\r\n",
        ),
        ("EHLO", "250-mail.example\r\n250 STARTTLS\r\n220 go\r\n"),
        ("EHLO", "250-mail.example\r\n250 STARTTLS\r\n2"),
    ] {
        let part = stage.part(&[(command, answer)]);
        let error = stage.play(MailSecurity::StartTls, false, part).await;
        let error = error.unwrap_err();
        assert!(matches!(error, SmtpError::Nonsense(_)), "{error:?}");
        assert_eq!(stage.heard().secret, "");
    }
}

#[tokio::test]
async fn a_server_that_is_somebody_else_hears_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::set(folder.path(), "mail.evil.example");
    for (security, is_encrypted) in [(MailSecurity::StartTls, false), (MailSecurity::Tls, true)] {
        let part = stage.part(&[]);
        let error = stage.play(security, is_encrypted, part).await.unwrap_err();
        assert!(matches!(error, SmtpError::Tls(_)), "{error:?}");
        assert_eq!(stage.heard().secret, "");
    }
    // Nor one that only says that TLS begins.
    let part = Part {
        tls: None,
        ..stage.part(&[])
    };
    let error = stage.play(MailSecurity::StartTls, false, part).await;
    assert!(matches!(error, Err(SmtpError::Tls(_))), "{error:?}");
}

#[tokio::test]
async fn a_server_may_say_so_much_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::set(folder.path(), "localhost");
    let endless: &'static str = Box::leak(format!("220{}", "-x".repeat(1_000_000)).into());
    let lines: &'static str = Box::leak("250-x\r\n".repeat(100_000).into());
    for security in [MailSecurity::StartTls, MailSecurity::None] {
        for (greeting, answer) in [
            (endless, ""),
            ("220 hi\r\n", endless),
            ("220 hi\r\n", lines),
        ] {
            let part = Part {
                greeting,
                ..stage.part(&[("EHLO", answer)])
            };
            let sent = stage.play(security, false, part).await;
            assert!(sent.is_err(), "{security:?}");
        }
    }
    for greeting in [
        "hello\r\n",
        "\r\n",
        "2\r\n",
        "999999 x\r\n",
        "554 go away\r\n",
    ] {
        let part = Part {
            greeting,
            ..stage.part(&[])
        };
        let sent = stage.play(MailSecurity::StartTls, false, part).await;
        assert!(sent.is_err(), "{greeting:?}");
    }
}

#[tokio::test]
async fn a_no_to_the_letter_is_final_and_a_no_to_us_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::set(folder.path(), "localhost");
    for (command, answer, status, is_final) in [
        ("secret RCPT", "550 no such user\r\n", 550, true),
        ("secret RCPT", "501 bad address\r\n", 501, true),
        ("secret RCPT", "451 greylisted\r\n", 451, false),
        ("secret MAIL", "553 not your address\r\n", 553, true),
        ("secret .", "554 looks like spam\r\n", 554, true),
        ("secret DATA", "421 closing\r\n", 421, false),
        ("secret AUTH", "535 wrong password\r\n", 535, false),
        ("secret MAIL", "530 log in first\r\n", 530, false),
    ] {
        let part = stage.part(&[(command, answer)]);
        let error = stage.play(MailSecurity::StartTls, false, part).await;
        let error = error.unwrap_err();
        let SmtpError::Status(said, _) = &error else {
            panic!("{error:?}");
        };
        assert_eq!((*said, error.is_final()), (status, is_final), "{answer}");
        let text = error.to_string();
        assert!(
            !text.contains("user") && text.contains(&status.to_string()),
            "{text}"
        );
    }
}
