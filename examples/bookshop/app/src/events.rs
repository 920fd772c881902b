//! Server-sent events: an answer that comes piece by piece
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::io::{self, Write};

use serde_json::Value;

/// Events for a client that stays, in their time: the iterator waits for each.
pub type Events = Box<dyn Iterator<Item = Event> + Send>;

/// One event.
pub struct Event {
    /// What happened.
    pub name: &'static str,
    /// More about it.
    pub data: Value,
}

/// Answers with events until there are no more, or the client is gone.
///
/// # Errors
/// The client is gone.
pub fn send(mut client: impl Write, events: Events) -> io::Result<()> {
    client.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
          Transfer-Encoding: chunked\r\n\r\n",
    )?;
    client.flush()?;
    for Event { name, data } in events {
        let text = format!("event: {name}\ndata: {data}\n\n");
        // A chunk of its own, so that it is seen at once (RFC 9112 section 7.1).
        write!(client, "{:x}\r\n{text}\r\n", text.len())?;
        client.flush()?;
    }
    client.write_all(b"0\r\n\r\n")?;
    client.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_a_chunk_and_the_last_chunk_ends_the_answer() {
        let mut sent = Vec::new();
        let events = ["packed", "shipped"].map(|name| Event {
            name,
            data: Value::from(1),
        });
        send(&mut sent, Box::new(events.into_iter())).unwrap();
        let sent = String::from_utf8(sent).unwrap();
        let (_, body) = sent.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            body,
            "17\r\nevent: packed\ndata: 1\n\n\r\n18\r\nevent: shipped\ndata: 1\n\n\r\n0\r\n\r\n"
        );
    }
}
