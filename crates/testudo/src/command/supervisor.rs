//! What systemd is told (`sd_notify(3)`), where it has asked for it. Without it nobody is told anything.

#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::{
    env, io,
    os::unix::net::{SocketAddr, UnixDatagram},
};

use tracing::debug;

/// News about this process.
#[derive(Debug, Clone, Copy)]
pub enum News {
    /// It serves.
    Ready,
    /// It drains and will end.
    Stopping,
    /// Another process has taken over and is the service from now on.
    SucceededBy(i32),
}

/// Tells the supervisor, if there is one that listens.
#[expect(
    clippy::disallowed_methods,
    reason = "systemd says in the environment where it listens"
)]
pub fn notify(news: News) {
    let Some(address) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let message = match news {
        News::Ready => "READY=1".to_owned(),
        News::Stopping => "STOPPING=1".to_owned(),
        News::SucceededBy(pid) => format!("MAINPID={pid}\nREADY=1"),
    };
    let sent = send(&address.to_string_lossy(), &message);
    if let Err(error) = sent {
        debug!(%error, "the supervisor cannot be told");
    }
}

fn send(address: &str, message: &str) -> io::Result<()> {
    let address = match address.strip_prefix('@') {
        #[cfg(target_os = "linux")]
        Some(name) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_is_told_by_path_and_by_abstract_name() {
        let name = format!("testudo-supervisor-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let path = env::temp_dir().join(&name);
        let at_path = UnixDatagram::bind(&path).unwrap();
        let at_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        for (address, receiver) in [
            (path.display().to_string(), at_path),
            (format!("@{name}"), at_name),
        ] {
            send(&address, "READY=1").unwrap();
            let mut message = [0; 32];
            let length = receiver.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1");
        }
        std::fs::remove_file(path).unwrap();
    }
}
