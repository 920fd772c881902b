//! Passwords: argon2id (RFC 9106) with 19 MiB, two passes and one lane, the minimum OWASP recommends.
//!
//! Every computation takes that memory and some 20 ms of a core: do it on a blocking thread. At most
//! [`MAX_CONCURRENT`] run at once in a process, so that a wave of logins costs time and not memory; the
//! others wait.

use std::sync::{Condvar, Mutex, PoisonError};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::{PasswordHash, SaltString},
};
use testudo_model::{Entropy, Redacted, random_bytes};

use crate::pbkdf2::Pbkdf2Hash;

/// Computations at once: 4 × 19 MiB.
pub const MAX_CONCURRENT: usize = 4;

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Stored hashes asking for more are not ours, and would be a way to exhaust the machine.
const MAX_MEMORY_KIB: u32 = 64 * 1024;
const MAX_PASSES: u32 = 8;
const MAX_LANES: u32 = 4;
const MAX_PHC_BYTES: usize = 256;

/// Hashes a password with a new salt, as PHC text (`$argon2id$v=19$…`).
pub fn hash_password(password: &Redacted<String>, entropy: &dyn Entropy) -> String {
    hash_with_salt(password, &random_bytes::<16>(entropy))
}

/// Whether `phc` is a hash that passwords can be verified against: argon2id, or PBKDF2 of elsewhere.
pub fn is_password_hash(phc: &str) -> bool {
    read(phc).is_some() || Pbkdf2Hash::read(phc).is_some()
}

/// Whether `password` is the one hashed in `phc`. `false` as well for text that is no such hash.
pub fn verify_password(password: &Redacted<String>, phc: &str) -> bool {
    let Some(hash) = read(phc) else {
        let _permit = Permit::wait();
        return Pbkdf2Hash::read(phc).is_some_and(|hash| hash.verify(password));
    };
    let _permit = Permit::wait();
    our_argon2()
        .verify_password(password.expose().as_bytes(), &hash)
        .is_ok()
}

/// Costs what [`verify_password`] costs and is always false: for user names that do not exist, so that the
/// time of an answer does not tell.
pub fn dummy_verify(password: &Redacted<String>) -> bool {
    std::hint::black_box(hash_with_salt(password, &[0; 16]));
    false
}

/// Whether `phc` was made with less than today's parameters and should be replaced at the next login.
pub fn needs_rehash(phc: &str) -> bool {
    let params = read(phc).and_then(|hash| Params::try_from(&hash).ok());
    params.is_none_or(|params| {
        params.m_cost() < MEMORY_KIB || params.t_cost() < PASSES || params.p_cost() < LANES
    })
}

fn hash_with_salt(password: &Redacted<String>, salt: &[u8; 16]) -> String {
    let _permit = Permit::wait();
    let hashed = SaltString::encode_b64(salt).and_then(|salt| {
        Ok(our_argon2()
            .hash_password(password.expose().as_bytes(), &salt)?
            .to_string())
    });
    // Fails for parameters that cannot be, and ours are constants. An empty hash would match nothing.
    hashed.unwrap_or_default()
}

fn our_argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// A stored hash, if it is argon2id and within our bounds.
fn read(phc: &str) -> Option<PasswordHash<'_>> {
    if phc.len() > MAX_PHC_BYTES {
        return None;
    }
    let hash = PasswordHash::new(phc).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let bounded = params.m_cost() <= MAX_MEMORY_KIB
        && params.t_cost() <= MAX_PASSES
        && params.p_cost() <= MAX_LANES;
    (bounded && hash.algorithm.as_str() == "argon2id").then_some(hash)
}

/// Computations running. Memory is the process's, so its bound is as well.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run one computation, given back when dropped.
struct Permit;

impl Permit {
    fn wait() -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = ENDED
            .wait_while(running, |running| *running >= MAX_CONCURRENT)
            .unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use testudo_testkit::SeededEntropy;

    use super::*;

    fn password(text: &str) -> Redacted<String> {
        Redacted::new(text.to_owned())
    }

    #[test]
    fn a_password_verifies_against_its_own_hash_only() {
        let entropy = SeededEntropy::new(1);
        let hash = hash_password(&password("correct horse"), &*entropy);
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert!(verify_password(&password("correct horse"), &hash));
        assert!(!verify_password(&password("correct horsf"), &hash));
        assert!(!verify_password(&password(""), &hash));
        assert!(!dummy_verify(&password("correct horse")));
        assert_ne!(
            hash_password(&password("correct horse"), &*entropy),
            hash,
            "salted"
        );
        assert!(!needs_rehash(&hash));
    }

    #[test]
    fn hashes_of_other_kinds_and_of_any_price_are_refused_at_once() {
        let hash = hash_password(&password("x"), &*SeededEntropy::new(1));
        for bad in [
            String::new(),
            "$argon2id$".to_owned(),
            hash.replace("argon2id", "argon2i"),
            hash.replace("argon2id", "scrypt"),
            hash.replace("m=19456", "m=4194304"),
            hash.replace("t=2", "t=4294967295"),
            hash.replace("p=1", "p=16777215"),
            "x".repeat(10_000),
        ] {
            assert!(!verify_password(&password("x"), &bad), "{bad}");
            assert!(needs_rehash(&bad));
        }
        assert!(needs_rehash(&hash.replace("m=19456", "m=9728")));
    }

    #[test]
    fn more_logins_than_permits_all_finish() {
        let hash = hash_password(&password("x"), &*SeededEntropy::new(1));
        std::thread::scope(|scope| {
            let verify = || verify_password(&password("x"), &hash);
            let logins: Vec<_> = (0..MAX_CONCURRENT * 2)
                .map(|_| scope.spawn(verify))
                .collect();
            assert!(logins.into_iter().all(|login| login.join().unwrap()));
        });
    }
}
