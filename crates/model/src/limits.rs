//! Every limit with its default and its reason. Parsers refuse what is beyond; queues refuse what does not fit.

use std::time::Duration;

/// Longest request path. nginx allows 8 KiB for the whole request line.
pub const MAX_PATH_BYTES: usize = 4 * 1024;
/// Longest query string. Beyond it something else is wrong.
pub const MAX_QUERY_BYTES: usize = 8 * 1024;
/// All request header bytes together. 431 beyond.
pub const MAX_HEADER_BYTES: usize = 32 * 1024;
/// Number of request header fields. 431 beyond.
pub const MAX_HEADER_FIELDS: usize = 100;
/// Number of header fields of a request from another proxy: what it was allowed to take, and what it adds.
pub const MAX_MESH_HEADER_FIELDS: usize = MAX_HEADER_FIELDS + 12;
/// All header bytes of such a request together, as HTTP/2 counts them (RFC 9113 section 6.5.2): with the path, 32
/// bytes for each field, and a transaction token with its claims and chain.
pub const MAX_MESH_HEADER_BYTES: usize =
    MAX_HEADER_BYTES + MAX_PATH_BYTES + MAX_QUERY_BYTES + 32 * MAX_MESH_HEADER_FIELDS + 24 * 1024;
/// Longest request line: method, an absolute target with its longest path and query, version. 414 beyond.
pub const MAX_REQUEST_LINE_BYTES: usize = MAX_PATH_BYTES + MAX_QUERY_BYTES + 512;
/// Longest method name; the longest registered one has 17 characters. 501 beyond.
pub const MAX_METHOD_BYTES: usize = 32;
/// Extensions of one chunk of a request body. Nobody uses any.
pub const MAX_CHUNK_EXTENSION_BYTES: usize = 256;
/// Extensions of all chunks of a request body.
pub const MAX_CHUNK_EXTENSIONS_BYTES: usize = 8 * 1024;
/// Trailer section of a request body. It is dropped, so little of it is read.
pub const MAX_TRAILER_BYTES: usize = 8 * 1024;
/// Number of trailer fields of a request body.
pub const MAX_TRAILER_FIELDS: usize = 32;
/// Time a client may go on sending after it was refused, so that it gets to read why.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes a client may go on sending after it was refused.
pub const MAX_LINGER_BYTES: usize = 1024 * 1024;
/// Largest request body unless a route says otherwise. 413 beyond.
pub const DEFAULT_MAX_BODY_BYTES: u64 = 8 * 1024 * 1024;
/// Largest access token; ours have about 700 bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Deepest JSON in a token.
pub const MAX_TOKEN_DEPTH: usize = 8;
/// Addresses looked at in `X-Forwarded-For`; a longer chain is a forgery or a loop.
pub const MAX_FORWARDED_HOPS: usize = 32;
/// Time a client has to send a header section, from its first byte. 408 beyond.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a whole request may take unless its route says otherwise. 504 beyond.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a body that a client must move in a second while it is waited for, unless the fleet says otherwise. Less is
/// no line that anybody has: a modem of 1990 is as fast.
pub const DEFAULT_MIN_BODY_BYTES_PER_SECOND: u64 = 240;
/// Time it may be waited for beyond that, and the longest pause. A train through a tunnel.
pub const DEFAULT_BODY_GRACE: Duration = Duration::from_secs(30);
/// Idle time after which a kept-alive connection is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Time in which a stream (a WebSocket, server-sent events, gRPC) must move something. Longer than any common
/// heartbeat, shorter than what firewalls forget.
pub const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Longest life of a stream: that of the login it may have been opened with.
pub const STREAM_LIFETIME: Duration = SESSION_LIFETIME;
/// Time in which a connection whose bytes are carried unread must move something, unless its service says otherwise.
/// Pools of databases keep idle ones for half an hour.
pub const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Such connections that one sidecar holds at once for its service, unless the service says otherwise. A database
/// takes a few hundred.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 1_000;
/// What is read of a client to find the server name it wants. The largest hellos, with keys for post-quantum key
/// exchange and for encrypted hellos, have about 4 KiB.
pub const MAX_CLIENT_HELLO_BYTES: usize = 16 * 1024;
/// Longest header of the PROXY protocol, version 2. Those of cloud load balancers have about 100 bytes.
pub const MAX_PROXY_HEADER_BYTES: usize = 1024;
/// Time a trusted proxy has to send its header of the PROXY protocol.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// Open connections for one proxy, if the system lets it have the descriptors. Further ones are not accepted until one
/// closes.
pub const MAX_CONNECTIONS: usize = 20_000;
/// Concurrent streams on one HTTP/2 connection (RFC 9113 recommends at least 100).
pub const MAX_HTTP2_STREAMS: u32 = 250;
/// What the other side of a connection between proxies may send of one body before its reader has taken it. Over
/// 1 ms of distance it carries 64 MB/s.
pub const MESH_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// The same for all bodies of such a connection together. With less than all its streams may hold back, a few clients that
/// do not read would stop the calls of everybody else on the connection. It is much more because h2 bounds the unread
/// frames of a connection by it, and ends the connection with everybody's calls: a client that sends its body byte by
/// byte fills the window of its stream with so many frames, of which 16 streams must find room (h2 counts 256 bytes for
/// each, against half of this). They take some 100 bytes of memory each, 100 MB in all.
pub const MESH_CONNECTION_WINDOW_BYTES: u32 = 2 * 256 * 16 * MESH_STREAM_WINDOW_BYTES;
/// Requests of one worker that may wait for one upstream. One more takes the place of a less important one.
pub const MAX_WAITING_REQUESTS: usize = 10_000;
/// Verified tokens a worker remembers.
pub const MAX_CACHED_TOKENS: usize = 10_000;
/// Longest `jti` of a DPoP proof or client assertion.
pub const MAX_PROOF_ID_BYTES: usize = 256;
/// Life of a nonce for DPoP proofs. A client that was idle for longer is asked to try again with a new one.
pub const PROOF_NONCE_LIFETIME: Duration = Duration::from_secs(120);
/// Age of a DPoP proof that has no nonce, by the client's clock, where none is required.
pub const PROOF_LIFETIME: Duration = Duration::from_secs(60);
/// How far the clock of a client may be ahead: what the FAPI 2.0 Security Profile asks for (section 5.3.2.1).
pub const PROOF_FUTURE: Duration = Duration::from_secs(10);
/// How far ahead it may be in a proof whose nonce says when it was made: beyond that a proof is refused whatever its nonce
/// says (the same section).
pub const PROOF_FUTURE_LIMIT: Duration = Duration::from_secs(60);
/// Used DPoP proofs a gateway remembers in each of two generations, about 20 bytes each: four thousand a second for as
/// long as a nonce lives.
pub const MAX_GATEWAY_PROOFS: usize = 524_288;
/// Decisions a worker remembers.
pub const MAX_CACHED_DECISIONS: usize = 10_000;
/// Rate-limit cells of one proxy; about 64 bytes each.
pub const MAX_LIMIT_CELLS: usize = 1_000_000;

/// Life of an X.509-SVID. Short, so that a stolen key is worth little; renewed at half-life.
pub const SVID_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// How long after its end an X.509-SVID still gets its proxy the next one, and nothing else: a night's outage of
/// the control plane, or of the machine. What it costs: docs/decisions/0005.
pub const LATE_RENEWAL: Duration = Duration::from_secs(24 * 3600);
/// Life of an access token.
pub const ACCESS_TOKEN_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Life of a transaction token: one call tree.
pub const TRANSACTION_TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// Idle life of a refresh token family.
pub const REFRESH_TOKEN_LIFETIME: Duration = Duration::from_secs(14 * 24 * 3600);
/// Life of a login session.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Life of an authorization code (RFC 6749 section 4.1.2 recommends at most 10 minutes).
pub const AUTHORIZATION_CODE_LIFETIME: Duration = Duration::from_secs(60);
/// Clock difference tolerated in time claims.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// Events in the ring between the request path and the spool writer. Full means fail closed.
pub const EVENT_RING: usize = 65_536;
/// Events in one spool block.
pub const MAX_BLOCK_EVENTS: usize = 4_096;
/// Longest encoded event (C2SP tlog-tiles allows 65,535 bytes for an entry).
pub const MAX_EVENT_BYTES: usize = 16 * 1024;
/// All encoded events of one spool block with their line ends. A proxy holds two of them, and one that the
/// ledger verifies costs it a few times as much.
pub const MAX_BLOCK_EVENTS_BYTES: usize = 1024 * 1024;
/// Longest head of a block: two ids of at most 2 KiB and a few numbers.
pub const MAX_BLOCK_HEAD_BYTES: usize = 8 * 1024;
/// Certificates in the chain of a block's signer: leaf, intermediates, root.
pub const MAX_BLOCK_CHAIN: usize = 4;
/// All certificates of such a chain together, in base64. Ours have about 700 bytes each.
pub const MAX_BLOCK_CHAIN_BYTES: usize = 24 * 1024;
/// A whole block as spooled and shipped: events, head, signature and chain.
pub const MAX_BLOCK_BYTES: usize =
    MAX_BLOCK_EVENTS_BYTES + MAX_BLOCK_HEAD_BYTES + MAX_BLOCK_CHAIN_BYTES + 1024;
/// Age at which an unfinished block is sealed.
pub const BLOCK_INTERVAL: Duration = Duration::from_millis(500);

/// Largest fleet file.
pub const MAX_FLEET_FILE_BYTES: usize = 4 * 1024 * 1024;
/// Largest policy file.
pub const MAX_POLICY_FILE_BYTES: usize = 1024 * 1024;
/// Policies in one snapshot.
pub const MAX_POLICIES: usize = 50_000;
/// Services in one fleet.
pub const MAX_SERVICES: usize = 20_000;
/// Largest snapshot on the wire.
pub const MAX_SNAPSHOT_BYTES: usize = 64 * 1024 * 1024;
