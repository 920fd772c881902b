//! Where frames begin (RFC 9113 section 4.1), in bytes that come as they like.

/// The client's connection preface (RFC 9113 section 3.4), which is no frame.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's head.
const HEAD_BYTES: usize = 9;

/// What a frame is (RFC 9113 section 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0x0;
    pub(crate) const HEADERS: u8 = 0x1;
    pub(crate) const RST_STREAM: u8 = 0x3;
    pub(crate) const CONTINUATION: u8 = 0x9;
}

/// The flag that ends the sender's half of a stream, on DATA and HEADERS.
const END_STREAM: u8 = 0x1;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Bytes of payload behind it.
    pub(crate) length: u32,
    /// See [`kind`].
    pub(crate) kind: u8,
    flags: u8,
    /// The stream it is about; 0 for the connection.
    pub(crate) stream: u32,
}

impl Frame {
    fn parse(head: [u8; HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            // The highest bit is reserved.
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        }
    }

    /// Whether its sender sends nothing more on the stream.
    pub(crate) const fn ends_stream(self) -> bool {
        match self.kind {
            kind::DATA | kind::HEADERS => self.flags & END_STREAM != 0,
            kind => kind == kind::RST_STREAM,
        }
    }
}

/// Follows one direction of a connection from frame to frame.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Bytes that belong to no head: the rest of the preface or of a payload.
    to_skip: usize,
    head: [u8; HEAD_BYTES],
    /// How many bytes of the head have come.
    known: usize,
}

impl Frames {
    /// What a client sends.
    pub(crate) const fn of_client() -> Self {
        Self {
            to_skip: PREFACE.len(),
            head: [0; HEAD_BYTES],
            known: 0,
        }
    }

    /// What a server sends.
    pub(crate) const fn of_server() -> Self {
        Self {
            to_skip: 0,
            ..Self::of_client()
        }
    }

    /// Follows `bytes` up to the end of the next head. `None`: there is none in them.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        self.skip(bytes);
        while self.known < HEAD_BYTES {
            let (byte, rest) = bytes.split_first()?;
            *self.head.get_mut(self.known)? = *byte;
            self.known += 1;
            *bytes = rest;
        }
        let frame = Frame::parse(self.head);
        self.known = 0;
        self.to_skip = usize::try_from(frame.length).unwrap_or(usize::MAX);
        Some(frame)
    }

    /// Follows `bytes` as far as they belong to the frame whose head came last.
    pub(crate) fn skip(&mut self, bytes: &mut &[u8]) {
        let skipped = self.to_skip.min(bytes.len());
        self.to_skip -= skipped;
        *bytes = bytes.get(skipped..).unwrap_or_default();
    }

    /// Whether the next byte is the first of a frame.
    pub(crate) const fn is_between(&self) -> bool {
        self.to_skip == 0 && self.known == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame_bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn frames_in(frames: &mut Frames, mut bytes: &[u8]) -> Vec<Frame> {
        std::iter::from_fn(|| frames.next(&mut bytes)).collect()
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_come(
            sent in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u32>(), 0..40_usize), 0..12),
            step in 1..50_usize,
        ) {
            let mut bytes = PREFACE.to_vec();
            for (kind, flags, stream, length) in &sent {
                bytes.extend(frame_bytes(*kind, *flags, *stream, &vec![0xff; *length]));
            }
            let mut frames = Frames::of_client();
            let found: Vec<_> = bytes.chunks(step).flat_map(|part| frames_in(&mut frames, part)).collect();
            prop_assert_eq!(found.len(), sent.len());
            for (found, (kind, _, stream, length)) in found.iter().zip(&sent) {
                prop_assert_eq!((found.kind, found.stream), (*kind, stream & 0x7fff_ffff));
                prop_assert_eq!(found.length as usize, *length);
            }
            prop_assert!(frames.is_between());
        }
    }

    #[test]
    fn a_stream_ends_with_a_flag_or_a_reset() {
        let ends = |kind, flags| {
            let bytes = frame_bytes(kind, flags, 1, b"");
            let [frame] = frames_in(&mut Frames::of_server(), &bytes)[..] else {
                panic!("one frame")
            };
            frame.ends_stream()
        };
        assert!(ends(kind::DATA, 1) && ends(kind::HEADERS, 5) && ends(kind::RST_STREAM, 0));
        // SETTINGS and PING have ACK in the same place.
        assert!(!ends(kind::DATA, 8) && !ends(4, 1) && !ends(6, 1));
    }
}
