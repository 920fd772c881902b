//! Checks of the server that takes mail to users.

use std::net::IpAddr;

use super::{
    MailSecurity, MailServer, SeedCredential,
    check::Context,
    document::Cursor,
    file::{FleetFile, MailSection},
};

pub(super) fn check(
    file: &FleetFile,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Option<MailServer> {
    let section = file.mail.as_ref()?;
    let host = section.server.as_str();
    if section.security == MailSecurity::None && !is_this_machine(host) {
        context
            .problems
            .error(
                "fleet.mail",
                at.key("security").place(),
                format!("mail would go to `{host}` in the clear"),
            )
            .why("whoever reads it on the way can reset the passwords of users")
            .help("use `starttls` or `tls`, or a server on this machine");
    }
    if !is_address(&section.from) {
        context
            .problems
            .error(
                "fleet.mail",
                at.key("from").place(),
                "this is not a mail address",
            )
            .help("write the address alone, like `no-reply@bookshop.example`; the name goes to `from_name`");
    }
    let from_name = section.from_name.as_deref();
    let from_name = from_name.unwrap_or(file.trust_domain.as_str());
    if from_name.contains(char::is_control) || from_name.len() > 128 {
        context.problems.error(
            "fleet.mail",
            at.key("from_name").place(),
            "this is not a name: it has control characters, or more than 128 bytes",
        );
    }
    let ca_file = section.ca_file.as_deref();
    Some(MailServer {
        host: host.to_owned(),
        port: section.port.unwrap_or(match section.security {
            MailSecurity::StartTls => 587,
            MailSecurity::Tls => 465,
            MailSecurity::None => 25,
        }),
        security: section.security,
        credentials: credentials(section, at, context),
        from: section.from.clone(),
        from_name: from_name.to_owned(),
        ca_pem: context.certificates(ca_file, at.key("ca_file")),
    })
}

fn credentials(
    section: &MailSection,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Option<(String, testudo_model::Redacted<String>)> {
    let (username, password) = match (&section.username, &section.password) {
        (Some(username), Some(password)) => (username, password),
        (None, None) => return None,
        (Some(_), None) => {
            let place = at.key("username").place();
            context
                .problems
                .error("fleet.mail", place, "there is no password for this name")
                .help("add `password = { file = \"…\" }`");
            return None;
        }
        (None, Some(_)) => {
            let place = at.key("password").place();
            context
                .problems
                .error("fleet.mail", place, "there is no name for this password")
                .help("add `username`");
            return None;
        }
    };
    match context.credential(Some(password), at.key("password")) {
        SeedCredential::Secret(password) => Some((username.clone(), password)),
        SeedCredential::Hash(_) => {
            let place = at.key("password").place();
            context
                .problems
                .error("fleet.mail", place, "a server wants the password itself")
                .help("write `{ file = \"…\" }` or `{ env = \"…\" }`");
            None
        }
        SeedCredential::Generated => None,
    }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn is_address(text: &str) -> bool {
    let is_plain = |part: &str| {
        let plain = |c: char| c.is_ascii_graphic() && !"<>,;:\"\\()[]@".contains(c);
        !part.is_empty() && part.chars().all(plain)
    };
    let parts = text.rsplit_once('@');
    text.len() <= 254 && parts.is_some_and(|(local, domain)| is_plain(local) && is_plain(domain))
}
