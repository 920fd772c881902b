//! Error codes (RFC 9114 section 8.1, RFC 9204 section 6), and what they end.

use quinn::VarInt;

/// Nothing is wrong.
pub(crate) const NO_ERROR: VarInt = VarInt::from_u32(0x100);
/// An answer cannot be finished.
pub(super) const INTERNAL_ERROR: VarInt = VarInt::from_u32(0x102);
/// A stream of a kind that is not taken, or not twice.
pub(super) const STREAM_CREATION_ERROR: VarInt = VarInt::from_u32(0x103);
/// A stream has ended that must last as long as the connection.
pub(super) const CLOSED_CRITICAL_STREAM: VarInt = VarInt::from_u32(0x104);
/// A frame where none of its kind may be.
pub(super) const FRAME_UNEXPECTED: VarInt = VarInt::from_u32(0x105);
/// A frame that is malformed or cut off.
pub(super) const FRAME_ERROR: VarInt = VarInt::from_u32(0x106);
/// Too much work for nothing.
pub(crate) const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(0x107);
/// A push that nobody has promised.
pub(super) const ID_ERROR: VarInt = VarInt::from_u32(0x108);
/// Settings that are malformed, twice there, or of HTTP/2.
pub(super) const SETTINGS_ERROR: VarInt = VarInt::from_u32(0x109);
/// A control stream that does not begin with settings.
pub(super) const MISSING_SETTINGS: VarInt = VarInt::from_u32(0x10a);
/// A request nobody has begun to act on.
pub(super) const REQUEST_REJECTED: VarInt = VarInt::from_u32(0x10b);
/// A request that is cut off or took too long to come.
pub(super) const REQUEST_INCOMPLETE: VarInt = VarInt::from_u32(0x10d);
/// A message that is malformed.
pub(super) const MESSAGE_ERROR: VarInt = VarInt::from_u32(0x10e);
/// A field section that cannot be decoded.
pub(super) const QPACK_DECOMPRESSION_FAILED: VarInt = VarInt::from_u32(0x200);
/// An entry for a dynamic table that has no room.
pub(super) const QPACK_ENCODER_STREAM_ERROR: VarInt = VarInt::from_u32(0x201);

/// Why nothing more is read from a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The client broke it off, or the connection.
    #[error("the client broke off")]
    Broken,
    /// The stream cannot go on.
    #[error("the stream ends with error {0}")]
    Stream(VarInt),
    /// The connection cannot go on.
    #[error("the connection ends with error {0}")]
    Connection(VarInt),
}
