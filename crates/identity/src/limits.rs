//! Limits of the provider: input sizes, lifetimes that are nobody else's, and how fast passwords may be guessed.
//! Token and session lifetimes that proxies also know are in `testudo_model::limits`.

use std::time::Duration;

/// Longest query string or form body of an OAuth request.
pub const MAX_FORM_BYTES: usize = 32 * 1024;
/// Parameters of one request; the longest real ones have about 20.
pub const MAX_PARAMETERS: usize = 64;
/// Longest `state`. It returns in a URL, and URLs beyond 2 KiB break in places.
pub const MAX_STATE_BYTES: usize = 1024;
/// Longest `nonce`; it is repeated in the ID token.
pub const MAX_NONCE_BYTES: usize = 512;
/// Longest redirect URI.
pub const MAX_REDIRECT_URI_BYTES: usize = 2048;
/// Redirect URIs of one client; also addresses it may be returned to after a logout.
pub const MAX_REDIRECT_URIS: usize = 32;
/// Scopes of one request, client or service account; they are repeated in every token.
pub const MAX_SCOPES: usize = 32;
/// Groups, roles or workloads of one subject; they are in every snapshot.
pub const MAX_MEMBERSHIPS: usize = 64;
/// Groups in groups, from the innermost to the outermost.
pub const MAX_GROUP_DEPTH: usize = 16;
/// Memberships that one change begins or ends: each is two writes of one transaction.
pub const MAX_MEMBER_CHANGES: usize = 2_000;
/// Largest body of a SCIM request, and largest bulk.
pub const MAX_SCIM_BODY_BYTES: usize = 1024 * 1024;
/// Resources of one SCIM answer.
pub const MAX_SCIM_PAGE: usize = 200;
/// Resources that are sorted for one SCIM answer; all of them are held for it.
pub const MAX_SORTED: usize = 10_000;
/// Requests in one SCIM bulk. Each may hash a password.
pub const MAX_BULK_OPERATIONS: usize = 100;
/// Operations of one SCIM PATCH; one may add many members.
pub const MAX_PATCH_OPERATIONS: usize = 100;
/// Longest SCIM filter or path.
pub const MAX_FILTER_BYTES: usize = 4 * 1024;
/// Parentheses in parentheses in a SCIM filter.
pub const MAX_FILTER_DEPTH: usize = 16;
/// Terms of a SCIM filter: each is compared with every resource.
pub const MAX_FILTER_TERMS: usize = 64;
/// Mail addresses of a user.
pub const MAX_MAIL_ADDRESSES: usize = 16;
/// Longest display name, description or mail address.
pub const MAX_TEXT_BYTES: usize = 256;
/// Longest mail address (RFC 5321 section 4.5.3.1.3, without the brackets).
pub const MAX_MAIL_ADDRESS_BYTES: usize = 254;
/// Users of one mail address who are all written to when a password of one of them was forgotten.
pub const MAX_ACCOUNTS_OF_ADDRESS: usize = 5;
/// Longest sealed login flow. The parts above, sealed and encoded, stay below.
pub const MAX_FLOW_BYTES: usize = 8 * 1024;
/// Longest reference to a pushed request. It travels in a URL; that of an ordinary request has less than 1 KiB.
pub const MAX_REQUEST_REFERENCE_BYTES: usize = 7 * 1024;
/// Longest cookie of ours; a session cookie has 74 bytes.
pub const MAX_COOKIE_BYTES: usize = 256;
/// Longest `Authorization` header at the token endpoint: an encoded client id and secret.
pub const MAX_AUTHORIZATION_BYTES: usize = 2048;
/// Longest refresh token or code; ours have less than 100 bytes.
pub const MAX_OPAQUE_TOKEN_BYTES: usize = 256;

/// Longest password. Argon2 takes any length; a megabyte of it is an attack.
pub const MAX_PASSWORD_BYTES: usize = 1024;
/// Shortest password a person may choose: NIST SP 800-63B-4 section 3.1.1.2 asks for 15 characters where the
/// password is the only factor.
pub const MIN_PASSWORD_CHARACTERS: usize = 15;
/// Shortest client secret somebody may choose: 128 bits in hexadecimal. Secrets are stored as plain SHA-256,
/// which is right for random text and wrong for words.
pub const MIN_CLIENT_SECRET_BYTES: usize = 32;
/// Longest client secret.
pub const MAX_CLIENT_SECRET_BYTES: usize = 256;
/// Client secrets valid at once: the current and the one being rotated out.
pub const MAX_CLIENT_SECRETS: usize = 2;

/// Time a person has between opening the login page and sending it.
pub const FLOW_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// How far a client's clock may be behind in a DPoP proof. Its nonce says when it was made; this is against nonsense.
pub const PROOF_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// Used DPoP proofs remembered in each of two generations, about 20 bytes each: a thousand a second for as long as a
/// nonce lives.
pub const MAX_USED_PROOFS: usize = 131_072;
/// Longest life of a client assertion, from when it was made; from when it is used, if it does not say.
pub const MAX_ASSERTION_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// How far a client's clock may be off in an assertion: what the FAPI 2.0 Security Profile asks for (section 5.3.2.1).
pub const ASSERTION_CLOCK_SKEW: Duration = Duration::from_secs(10);
/// Longest life of a signed authorization request, and its age when it is used (FAPI 2.0 Message Signing section 5.3.1).
pub const MAX_REQUEST_OBJECT_AGE: Duration = Duration::from_secs(60 * 60);
/// Used assertions remembered for one client, about 30 bytes each. Who lets them live for a minute can use a thousand a
/// second.
pub const MAX_USED_ASSERTIONS: usize = 65_536;
/// Life of a logout token, from each attempt to deliver it: what Back-Channel Logout 1.0 section 2.4 recommends.
pub const LOGOUT_TOKEN_LIFETIME: Duration = Duration::from_secs(120);
/// Time after which a notice that could not be delivered is given up: by then the session it speaks of would have ended
/// by itself, twice.
pub const NOTICE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Pause of a receiver after its first failure. Each further one doubles it.
pub const FIRST_NOTICE_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause of a receiver.
pub const MAX_NOTICE_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Notices that may wait for one receiver, about 500 bytes each. Beyond that it is not told, which is an event.
pub const MAX_NOTICES_PER_RECEIVER: usize = 10_000;
/// Time after which a signal that a receiver of a stream has not taken is given up: over a long weekend.
pub const SIGNAL_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Time after which it is looked at again whether what waits for a receiver that is sent nothing is too old.
pub const HELD_NOTICE_PAUSE: Duration = Duration::from_secs(5);
/// Streams of one receiver. Each is another write with everything that is told.
pub const MAX_SIGNAL_STREAMS_PER_RECEIVER: usize = 4;
/// Streams of a provider: what waits for all of them has less than 100 MB.
pub const MAX_SIGNAL_STREAMS: usize = 16;
/// Types of events that a receiver may ask for, also of those nobody here knows.
pub const MAX_EVENTS_REQUESTED: usize = 64;
/// Users that a receiver may remove from a stream; they are read with everything that is told.
pub const MAX_REMOVED_SUBJECTS: usize = 1_000;
/// Shortest time between two verifications of one stream.
pub const SIGNAL_VERIFICATION_INTERVAL: Duration = Duration::from_secs(10);
/// Signals of one answer to a poll. Each is signed for it.
pub const MAX_POLLED: usize = 100;
/// Signals that are acknowledged, or discarded, at once.
pub const MAX_ACKNOWLEDGED: usize = 1_000;
/// Notices that are being delivered at the same time, each to another receiver.
pub const MAX_NOTICES_UNDER_WAY: usize = 16;
/// Letters that are being sent at the same time, each to another address.
pub const MAX_MAILS_UNDER_WAY: usize = 4;
/// Letters that may wait for one address. Beyond that nothing is written, which is an event.
pub const MAX_MAILS_PER_ADDRESS: usize = 16;
/// Letters that may wait for all addresses, about 500 bytes each.
pub const MAX_MAILS_WAITING: usize = 10_000;
/// Age at which the list of waiting notices is compared with the store: other processes add to it too.
pub const NOTICE_REREAD: Duration = Duration::from_secs(60);
/// Accounts that a token may have been exchanged by: a call through more services than that is a loop.
pub const MAX_ACTORS: usize = 4;
/// Life of a device's request. The user has to find another device, and perhaps to log in there.
pub const DEVICE_CODE_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Time for which a device is told that it was too late, instead of that its code is none.
pub const DEVICE_CODE_MEMORY: Duration = Duration::from_secs(10 * 60);
/// Seconds between two questions of a device, and how much longer it waits once it asked too soon (RFC 8628 section 3.5).
pub const DEVICE_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How much sooner a question may come: time on the way varies.
pub const DEVICE_POLL_TOLERANCE: Duration = Duration::from_secs(1);
/// Longest time between two questions, however often a device asked too soon.
pub const MAX_DEVICE_POLL_INTERVAL: Duration = Duration::from_secs(60);
/// Devices that ask at the same time, about 100 bytes each.
pub const MAX_POLLING_DEVICES: usize = 65_536;
/// Requests of devices from one network at once: each is a record.
pub const FREE_DEVICE_REQUESTS_PER_SOURCE: u32 = 60;
/// Time in which such a network may ask once more.
pub const DEVICE_REQUEST_REFILL_PER_SOURCE: Duration = Duration::from_secs(2);
/// Requests of all devices at once.
pub const FREE_DEVICE_REQUESTS: u32 = 2_000;
/// Time in which one more may come: at most 26,000 records of the last 20 minutes.
pub const DEVICE_REQUEST_REFILL: Duration = Duration::from_millis(50);
/// Wrong user codes of one user before answers are delayed.
pub const FREE_WRONG_USER_CODES: u32 = 5;
/// Longest key set of a client.
pub const MAX_CLIENT_KEY_SET_BYTES: usize = 8 * 1024;
/// Longest description of a client that registers itself: its keys and 32 addresses have less than 80 KiB, and nobody has
/// that many.
pub const MAX_REGISTRATION_BYTES: usize = 32 * 1024;
/// People who answer for a client that registers itself.
pub const MAX_CONTACTS: usize = 8;
/// Clients that may be registered with one token.
pub const MAX_REGISTRATION_TOKEN_USES: u32 = 1_000;
/// Longest time for which clients may be registered with a token.
pub const MAX_REGISTRATION_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long an API key is good if nobody says.
pub const DEFAULT_API_KEY_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Longest time for which an API key is good.
pub const MAX_API_KEY_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);
/// API keys of one service account: they are in every snapshot.
pub const MAX_API_KEYS: usize = 20;
/// Networks that one API key may be used from.
pub const MAX_API_KEY_NETWORKS: usize = 32;
/// Longest time that a token of a trusted issuer may still live. Those of clusters and build systems live for an hour at most.
pub const MAX_EXTERNAL_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Longest `sub` of such a token, and longest claim in a rule.
pub const MAX_EXTERNAL_SUBJECT_BYTES: usize = 512;
/// Rules of one account.
pub const MAX_EXTERNAL_WORKLOADS: usize = 32;
/// Claims of one rule.
pub const MAX_EXTERNAL_CLAIMS: usize = 16;
/// Age at which the keys of a trusted issuer are fetched again.
pub const ISSUER_KEYS_FRESH: Duration = Duration::from_secs(5 * 60);
/// Shortest time between two attempts to fetch them.
pub const ISSUER_KEYS_PAUSE: Duration = Duration::from_secs(20);
/// The same while there are none that count.
pub const ISSUER_KEYS_RETRY: Duration = Duration::from_secs(2);
/// Age at which they count no longer.
pub const ISSUER_KEYS_GOOD: Duration = Duration::from_secs(24 * 3600);
/// Time between pushing an authorization request and opening the login page with it.
pub const PUSHED_REQUEST_LIFETIME: Duration = Duration::from_secs(90);
/// Time during which the same refresh token gets the same successor: two tabs, or an answer lost on the way.
pub const REFRESH_RACE_WINDOW: Duration = Duration::from_secs(5);
/// Longest life of a grant, however often it is refreshed.
pub const MAX_GRANT_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Sessions of one user; a further login ends the oldest. Ending all must fit one transaction.
pub const MAX_SESSIONS_PER_USER: usize = 32;
/// Grants of one session; a further one ends the oldest.
pub const MAX_GRANTS_PER_SESSION: usize = 32;
/// Grants of one user, also those that outlive their sessions; a further one ends the one unused for longest. Ending all
/// must fit one transaction, or there would be users whom nobody can disable.
pub const MAX_GRANTS_PER_USER: usize = 256;
/// Age at which the signing key is due for rotation.
pub const SIGNING_KEY_ROTATION: Duration = Duration::from_secs(30 * 24 * 3600);
/// Age of cached signing keys. A new key is published one rotation before it signs, so seconds do not matter.
pub const SIGNING_KEY_CACHE: Duration = Duration::from_secs(5);

/// Time a person has for the code of an authenticator, once the password was right.
pub const SECOND_FACTOR_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Age of a login that may change what its user proves themselves with.
pub const FRESH_LOGIN: Duration = Duration::from_secs(10 * 60);
/// Longest secret of an authenticator that is imported.
pub const MAX_TOTP_SECRET_BYTES: usize = 64;
/// Recovery codes of a user.
pub const RECOVERY_CODES: usize = 10;
/// Wrong codes of one user from one network before answers are delayed: three codes of a million are right at a time.
pub const FREE_WRONG_CODES: u32 = 5;
/// Wrong codes of one user from everywhere, in one [`FAILURE_MEMORY`], before answers are delayed. Who gets so far has the
/// password, so the user may well be slowed down.
pub const FREE_WRONG_CODES_EVERYWHERE: u32 = 30;

/// Life of a link that lets a password be changed, from when it was asked for.
pub const RESET_LINK_LIFETIME: Duration = Duration::from_secs(30 * 60);
/// Life of a link that verifies a mail address.
pub const VERIFICATION_LINK_LIFETIME: Duration = Duration::from_secs(4 * 3600);
/// Letters that are asked for by or for one user or address before the next ones have to wait.
pub const FREE_LETTERS: u32 = 3;
/// The same for one network, whoever they are for.
pub const FREE_LETTERS_PER_SOURCE: u32 = 20;

/// Passkeys of one user. All are listed to an authenticator that is to make another, and deleted with the user in one
/// transaction.
pub const MAX_PASSKEYS_PER_USER: usize = 16;
/// Longest life of a link with which a user adds a passkey: over a long weekend.
pub const MAX_INVITATION_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// Accounts elsewhere that one user may be connected to. All are deleted with the user in one transaction.
pub const MAX_LINKS_PER_USER: usize = 16;
/// How far the clock of an identity provider elsewhere may be off.
pub const UPSTREAM_CLOCK_SKEW: Duration = Duration::from_secs(30);

/// Failed logins for one name from one network before answers are delayed.
pub const FREE_FAILURES_PER_NAME: u32 = 5;
/// Failed logins for one name from everywhere, in one [`FAILURE_MEMORY`], before answers are delayed. One network gets to
/// about a dozen of them, so it takes a hundred networks to slow down a user who is somewhere else.
pub const FREE_FAILURES_PER_NAME_EVERYWHERE: u32 = 1_000;
/// Failed logins from one address before answers are delayed; an office shares one address.
pub const FREE_FAILURES_PER_SOURCE: u32 = 30;
/// Longest delay. Each further failure doubles it from one second.
pub const MAX_LOGIN_DELAY: Duration = Duration::from_secs(5 * 60);
/// Quiet time after which failures are forgotten.
pub const FAILURE_MEMORY: Duration = Duration::from_secs(60 * 60);

/// Failed proofs of one client from one network before its requests are refused unseen.
pub const FREE_FAILED_PROOFS_PER_CLIENT: u32 = 20;
/// Time in which such a client gets one more attempt.
pub const FAILED_PROOF_REFILL_PER_CLIENT: Duration = Duration::from_secs(5);
/// Failed proofs of all clients from one network before all requests from there are refused unseen.
pub const FREE_FAILED_PROOFS: u32 = 200;
/// Time in which such a network gets one more attempt.
pub const FAILED_PROOF_REFILL: Duration = Duration::from_secs(1);
/// Clients and networks whose failures are remembered, about 100 bytes each.
pub const MAX_FAILED_PROOF_SOURCES: usize = 16_384;

/// Times a change is tried again when somebody else was faster.
pub const MAX_ATTEMPTS: usize = 16;
/// Records of one page.
pub const MAX_PAGE: usize = 500;
/// Records of one seed, all kinds together: they are one transaction, of up to five writes each.
pub const MAX_SEED_RECORDS: usize = 2_000;
