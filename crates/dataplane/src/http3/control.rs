//! Streams of one direction (RFC 9114 section 6.2, RFC 9204 section 4.2): settings, and what little else there is to say.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream, StreamId, VarInt};

use super::{
    code::{
        CLOSED_CRITICAL_STREAM, EXCESSIVE_LOAD, FRAME_ERROR, FRAME_UNEXPECTED, Fault, ID_ERROR,
        MISSING_SETTINGS, QPACK_ENCODER_STREAM_ERROR, SETTINGS_ERROR, STREAM_CREATION_ERROR,
    },
    frames::{FrameHead, Frames, kind},
    head::MAX_SECTION_BYTES,
    session::{Lasting, Session},
};
use crate::varint;

/// Kinds of streams.
const CONTROL: u64 = 0x0;
const PUSH: u64 = 0x1;
const ENCODER: u64 = 0x2;
const DECODER: u64 = 0x3;
/// Settings.
const QPACK_MAX_TABLE_CAPACITY: u64 = 0x1;
const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
const QPACK_BLOCKED_STREAMS: u64 = 0x7;
/// Frames on the control stream are small: settings, numbers, priorities.
const MAX_FRAME_BYTES: u64 = 4 * 1024;
/// What an encoder says that has understood that there is no dynamic table: its capacity is zero.
const CAPACITY_ZERO: u8 = 0x20;

/// Opens our control stream. It lasts as long as the connection.
///
/// # Errors
/// [`Fault::Broken`].
pub(super) async fn open(quic: &quinn::Connection) -> Result<SendStream, Fault> {
    let mut stream = quic.open_uni().await.map_err(|_| Fault::Broken)?;
    let mut settings = BytesMut::new();
    let section = u64::try_from(MAX_SECTION_BYTES).unwrap_or(varint::MAX);
    for (setting, value) in [
        (QPACK_MAX_TABLE_CAPACITY, 0),
        (MAX_FIELD_SECTION_SIZE, section),
        (QPACK_BLOCKED_STREAMS, 0),
    ] {
        varint::write(&mut settings, setting);
        varint::write(&mut settings, value);
    }
    let mut opening = BytesMut::new();
    varint::write(&mut opening, CONTROL);
    let opening = frame(opening, kind::SETTINGS, &settings);
    stream
        .write_all(&opening)
        .await
        .map_err(|_| Fault::Broken)?;
    Ok(stream)
}

/// Says that requests from the one with `id` on will not be served.
///
/// # Errors
/// [`Fault::Broken`].
pub(super) async fn say_goodbye(control: &mut SendStream, id: u64) -> Result<(), Fault> {
    let mut payload = BytesMut::new();
    varint::write(&mut payload, id);
    let goaway = frame(BytesMut::new(), kind::GOAWAY, &payload);
    control.write_all(&goaway).await.map_err(|_| Fault::Broken)
}

/// The number of a stream.
pub(super) fn number(stream: StreamId) -> u64 {
    VarInt::from(stream).into_inner()
}

fn frame(mut bytes: BytesMut, kind: u64, payload: &[u8]) -> Bytes {
    varint::write(&mut bytes, kind);
    varint::write(
        &mut bytes,
        u64::try_from(payload.len()).unwrap_or(varint::MAX),
    );
    bytes.extend_from_slice(payload);
    bytes.freeze()
}

/// Reads a stream that the client opened in its direction alone, for as long as it lasts.
pub(super) async fn listen(session: &Session, stream: RecvStream) {
    // Only a fault of the connection matters: the streams that matter last as long.
    if let Err(Fault::Connection(code)) = read(session, Frames::new(stream)).await {
        session.close(code);
    }
}

async fn read(session: &Session, mut frames: Frames) -> Result<(), Fault> {
    match frames.number().await? {
        CONTROL => {
            session.opened(Lasting::Control)?;
            Err(lasting(control(session, &mut frames).await))
        }
        ENCODER => {
            session.opened(Lasting::Encoder)?;
            Err(lasting(encoder(session, &mut frames).await))
        }
        DECODER => {
            session.opened(Lasting::Decoder)?;
            // Acknowledgements of what was never said.
            Err(lasting(drain(session, &mut frames).await))
        }
        PUSH => Err(Fault::Connection(STREAM_CREATION_ERROR)),
        _ => {
            frames.stop(STREAM_CREATION_ERROR);
            session.useless()
        }
    }
}

/// What the end of a stream means that must not end.
fn lasting(ended: Result<(), Fault>) -> Fault {
    match ended {
        Err(fault @ Fault::Connection(_)) => fault,
        Ok(()) | Err(_) => Fault::Connection(CLOSED_CRITICAL_STREAM),
    }
}

async fn control(session: &Session, frames: &mut Frames) -> Result<(), Fault> {
    match frames.head().await? {
        Some(FrameHead {
            kind: kind::SETTINGS,
            length,
        }) => check_settings(&payload(frames, length).await?)?,
        Some(_) => return Err(Fault::Connection(MISSING_SETTINGS)),
        None => return Ok(()),
    }
    while let Some(FrameHead { kind, length }) = frames.head().await? {
        match kind {
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE | kind::SETTINGS => {
                return Err(Fault::Connection(FRAME_UNEXPECTED));
            }
            kind if kind::is_of_http2(kind) => return Err(Fault::Connection(FRAME_UNEXPECTED)),
            kind::CANCEL_PUSH => return Err(Fault::Connection(ID_ERROR)),
            // Of no use to us: we push nothing, and serve in the order of arrival.
            _ => {
                session.useless()?;
                payload(frames, length).await?;
            }
        }
    }
    Ok(())
}

async fn payload(frames: &mut Frames, length: u64) -> Result<Bytes, Fault> {
    if length > MAX_FRAME_BYTES {
        return Err(Fault::Connection(EXCESSIVE_LOAD));
    }
    frames.payload(length).await
}

/// RFC 9114 section 7.2.4. None of the settings changes what we do.
fn check_settings(mut payload: &[u8]) -> Result<(), Fault> {
    let mut seen = BTreeSet::new();
    while !payload.is_empty() {
        let setting = varint::read(&mut payload).ok_or(Fault::Connection(FRAME_ERROR))?;
        varint::read(&mut payload).ok_or(Fault::Connection(FRAME_ERROR))?;
        let is_of_http2 = matches!(setting, 0x2..=0x5);
        if is_of_http2 || !seen.insert(setting) {
            return Err(Fault::Connection(SETTINGS_ERROR));
        }
    }
    Ok(())
}

async fn encoder(session: &Session, frames: &mut Frames) -> Result<(), Fault> {
    while let Some(bytes) = frames.bytes().await? {
        session.useless()?;
        if bytes.iter().any(|byte| *byte != CAPACITY_ZERO) {
            return Err(Fault::Connection(QPACK_ENCODER_STREAM_ERROR));
        }
    }
    Ok(())
}

async fn drain(session: &Session, frames: &mut Frames) -> Result<(), Fault> {
    while frames.bytes().await?.is_some() {
        session.useless()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_whole_single_and_of_http3() {
        for (settings, error) in [
            (&b"\x01\x00\x07\x10\x40\x52\x01"[..], None),
            (b"", None),
            (b"\x01", Some(FRAME_ERROR)),
            (b"\x01\x00\x40", Some(FRAME_ERROR)),
            (b"\x01\x00\x01\x00", Some(SETTINGS_ERROR)),
            (b"\x02\x00", Some(SETTINGS_ERROR)),
            (b"\x05\x00", Some(SETTINGS_ERROR)),
        ] {
            assert_eq!(check_settings(settings).err(), error.map(Fault::Connection));
        }
    }
}
