//! Letters as mail has them: plain text, and the same in HTML. Nothing in them is loaded from anywhere, and nobody is told that
//! they were read.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use askama::Template;
use lettre::{
    Address, Message,
    message::{
        Mailbox, MultiPart, MultiPartKind, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};
use testudo_identity::{Mail, MailContent};
use testudo_model::Timestamp;
use testudo_runtime::fleet::MailServer;

/// Why a letter cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// The address is none.
    #[error("the address cannot be written to")]
    Address(#[from] lettre::address::AddressError),
    /// A template.
    #[error("the text cannot be made")]
    Text(#[from] askama::Error),
    /// The head or the parts.
    #[error("the message cannot be made")]
    Message(#[from] lettre::error::Error),
}

/// What a letter says, in words.
struct Words {
    subject: String,
    paragraphs: Vec<String>,
    /// What to press, and where it leads.
    link: Option<(&'static str, String)>,
    closing: &'static str,
}

#[derive(Template)]
#[template(path = "mail.txt")]
struct Text<'a> {
    fleet: &'a str,
    words: &'a Words,
}

#[derive(Template)]
#[template(path = "mail.html")]
struct Html<'a> {
    fleet: &'a str,
    words: &'a Words,
}

/// `mail` as it is sent now to `server`.
///
/// # Errors
/// See [`LetterError`].
pub fn write(
    mail: &Mail,
    server: &MailServer,
    fleet: &str,
    now: Timestamp,
) -> Result<Message, LetterError> {
    let words = words_of(mail, fleet);
    let words = &words;
    let (text, html) = (Text { fleet, words }, Html { fleet, words });
    let from: Address = server.from.parse()?;
    let to: Address = mail.to.parse()?;
    // The same for each attempt: who gets two knows that they are one.
    let id = format!("<{}@{}>", mail.id, from.domain());
    let parts = MultiPart::builder()
        .kind(MultiPartKind::Alternative)
        .boundary(format!("={}", mail.id))
        .singlepart(SinglePart::plain(text.render()?))
        .singlepart(SinglePart::html(html.render()?));
    let millis = u64::try_from(now.unix_millis()).unwrap_or_default();
    let mut message = Message::builder()
        .from(Mailbox::new(Some(server.from_name.clone()), from))
        .to(Mailbox::new(None, to))
        .subject(words.subject.clone())
        .date(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
        .message_id(Some(id))
        .multipart(parts)?;
    // No automatic answers, please (RFC 3834 section 5).
    let name = HeaderName::new_from_ascii_str("Auto-Submitted");
    let value = HeaderValue::new(name, "auto-generated".to_owned());
    message.headers_mut().insert_raw(value);
    Ok(message)
}

fn words_of(mail: &Mail, fleet: &str) -> Words {
    let username = &mail.username;
    let account = format!("your account {username} at {fleet}");
    match &mail.content {
        MailContent::VerifyAddress { link, expires_at } => Words {
            subject: format!("Confirm your mail address for {fleet}"),
            paragraphs: vec![
                format!("This address was given for the account {username} at {fleet}."),
                format!(
                    "If it is yours, open this link and confirm it. It is good once, until {expires_at}."
                ),
            ],
            link: Some(("Confirm the address", link.expose().clone())),
            closing: "If you know nothing of it, do nothing.",
        },
        MailContent::ResetPassword { link, expires_at } => Words {
            subject: format!("Choose a new password for {fleet}"),
            paragraphs: vec![
                format!("Somebody, probably you, has forgotten the password of {account}."),
                format!(
                    "With this link you choose a new one. It is good once, until {expires_at}."
                ),
            ],
            link: Some(("Choose a new password", link.expose().clone())),
            closing: "If it was not you, do nothing: your password stays as it is. Give the link to nobody.",
        },
        MailContent::PasswordChanged { at, source } => Words {
            subject: format!("Your password for {fleet} was changed"),
            paragraphs: vec![
                format!(
                    "The password of {account} was changed at {at}{}.",
                    from(*source)
                ),
                "You are logged out everywhere; log in with the new password.".to_owned(),
            ],
            link: None,
            closing: "If it was not you, tell an administrator at once.",
        },
        MailContent::AddressChanged { at, source } => Words {
            subject: format!("Your mail address for {fleet} was changed"),
            paragraphs: vec![
                format!(
                    "Another mail address was given for {account} at {at}{}.",
                    from(*source)
                ),
                "From now on letters go there, and this address gets no more.".to_owned(),
            ],
            link: None,
            closing: "If it was not you, tell an administrator at once.",
        },
    }
}

fn from(source: Option<IpAddr>) -> String {
    source.map_or_else(String::new, |address| format!(", from {address}"))
}

#[cfg(test)]
mod tests {
    use testudo_model::Redacted;
    use testudo_runtime::fleet::MailSecurity;

    use super::*;

    fn server() -> MailServer {
        MailServer {
            host: "localhost".to_owned(),
            port: 25,
            security: MailSecurity::None,
            credentials: None,
            from: "no-reply@bookshop.example".to_owned(),
            from_name: "Bookshop".to_owned(),
            ca_pem: None,
        }
    }

    fn letter(to: &str, link: &str) -> Result<Message, LetterError> {
        let mail = Mail {
            id: "ntc_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
            to: to.to_owned(),
            username: "alice".parse().unwrap(),
            tenant: testudo_model::TenantName::default_tenant(),
            content: MailContent::VerifyAddress {
                link: Redacted::new(link.to_owned()),
                expires_at: Timestamp::from_unix_seconds(1_795_341_600),
            },
        };
        let now = Timestamp::from_unix_seconds(1_795_341_000);
        write(&mail, &server(), "bookshop.example", now)
    }

    #[test]
    fn what_is_no_address_gets_no_letter_and_no_field() {
        for bad in [
            "alice@bookshop.example\r\nBcc: eve@evil.example",
            "alice@bookshop.example, eve@evil.example",
            "alice@bookshop.example\n.\nMAIL FROM:<x@y.example>",
            "",
            "alice",
        ] {
            assert!(
                matches!(letter(bad, "x"), Err(LetterError::Address(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_letter_is_the_same_each_time_and_loads_nothing() {
        let link = "https://id.bookshop.example/verify-address?code=abc";
        let one = letter("alice@bookshop.example", link).unwrap().formatted();
        let other = letter("alice@bookshop.example", link).unwrap().formatted();
        assert_eq!(one, other);
        let text = String::from_utf8(one).unwrap();
        assert_eq!(
            text.matches("<http").count() + text.matches("src=").count(),
            0
        );
        assert!(text.is_ascii() && text.contains("boundary=\"=ntc_01ARZ3NDEKTSV4RRFFQ69G5FAV\""));
        assert!(
            text.contains("Date: Sun, 22 Nov 2026 09:50:00 +0000"),
            "{text}"
        );
    }

    #[test]
    fn a_link_cannot_become_markup() {
        let words = Words {
            subject: "<b>".to_owned(),
            paragraphs: vec!["<script>".to_owned()],
            link: Some(("Go", "https://x.example/?\"><img src=x>".to_owned())),
            closing: "",
        };
        let html = Html {
            fleet: "<i>",
            words: &words,
        };
        let html = html.render().unwrap();
        for bad in ["<b>", "<script>", "<img", "<i>"] {
            assert!(!html.contains(bad), "{html}");
        }
    }
}
