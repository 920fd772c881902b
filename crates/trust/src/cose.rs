//! Public keys of authenticators (COSE_Key, RFC 9052 section 7, as WebAuthn section 6.5.1.1 narrows it), and what they
//! have signed.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents,
};

use crate::cbor::{Cbor, CborError};

/// Labels of the parameters (RFC 9053 section 7, RFC 8230 section 4). `-1` and `-2` mean another thing for each type.
const KEY_TYPE: i64 = 1;
const ALGORITHM: i64 = 3;
const CURVE: i64 = -1;
const X: i64 = -2;
const Y: i64 = -3;
const MODULUS: i64 = -1;
const EXPONENT: i64 = -2;

/// Key types and curves.
const OCTET_KEY_PAIR: i64 = 1;
const ELLIPTIC: i64 = 2;
const RSA: i64 = 3;
const P256: i64 = 1;
const CURVE_ED25519: i64 = 6;

/// Bytes of a modulus: 2048 to 4096 bits. What is larger costs more to verify than it gives.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;
/// The exponent every authenticator uses, 65537.
const COMMON_EXPONENT: [u8; 3] = [1, 0, 1];

/// How an authenticator signs (IANA COSE Algorithms).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoseAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256: what the TPM of many a Windows machine has.
    Rs256,
}

impl CoseAlgorithm {
    /// All, the best first.
    pub const ALL: [Self; 3] = [Self::Es256, Self::EdDsa, Self::Rs256];

    /// Its number.
    pub const fn number(self) -> i64 {
        match self {
            Self::Es256 => -7,
            Self::EdDsa => -8,
            Self::Rs256 => -257,
        }
    }

    /// The algorithm of a number.
    pub fn of_number(number: i64) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|algorithm| algorithm.number() == number)
    }
}

/// Why bytes are no key that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CoseError {
    /// Not CBOR as it has to be.
    #[error("the key cannot be read: {0}")]
    Encoding(#[from] CborError),
    /// None of ours.
    #[error("the key is for an algorithm that was not asked for")]
    Algorithm,
    /// Its parameters are not those of its algorithm, or no key has them.
    #[error("the key has not the parameters of its algorithm")]
    Parameters,
}

/// The public key of a credential.
#[derive(Debug)]
pub struct CoseKey {
    algorithm: CoseAlgorithm,
    key: ParsedPublicKey,
}

impl CoseKey {
    /// Reads the key that `bytes` are.
    ///
    /// # Errors
    /// See [`CoseError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CoseError> {
        match Self::parse_prefix(bytes)? {
            (key, []) => Ok(key),
            (_, _) => Err(CborError::TrailingBytes.into()),
        }
    }

    /// Reads the key that `bytes` begin with; the rest too.
    ///
    /// # Errors
    /// See [`CoseError`].
    pub fn parse_prefix(bytes: &[u8]) -> Result<(Self, &[u8]), CoseError> {
        let (map, rest) = Cbor::parse_prefix(bytes)?;
        let number = map.get_integer(ALGORITHM).and_then(Cbor::as_integer);
        let algorithm = number
            .and_then(CoseAlgorithm::of_number)
            .ok_or(CoseError::Algorithm)?;
        let key = match algorithm {
            CoseAlgorithm::Es256 => elliptic(&map),
            CoseAlgorithm::EdDsa => edwards(&map),
            CoseAlgorithm::Rs256 => rsa(&map),
        };
        let key = key.ok_or(CoseError::Parameters)?;
        Ok((Self { algorithm, key }, rest))
    }

    /// What it signs with.
    pub const fn algorithm(&self) -> CoseAlgorithm {
        self.algorithm
    }

    /// Whether `signature` (WebAuthn section 6.5.5: DER for ECDSA) is this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }
}

fn elliptic(map: &Cbor<'_>) -> Option<ParsedPublicKey> {
    let has_its_own = map.as_map()?.len() == 5
        && number(map, KEY_TYPE)? == ELLIPTIC
        && number(map, CURVE)? == P256;
    let coordinate = |label| <&[u8; 32]>::try_from(bytes(map, label)?).ok();
    let point = [[4].as_slice(), coordinate(X)?, coordinate(Y)?].concat();
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).ok()?;
    has_its_own.then_some(key)
}

fn edwards(map: &Cbor<'_>) -> Option<ParsedPublicKey> {
    let has_its_own = map.as_map()?.len() == 4
        && number(map, KEY_TYPE)? == OCTET_KEY_PAIR
        && number(map, CURVE)? == CURVE_ED25519;
    let point = <&[u8; 32]>::try_from(bytes(map, X)?).ok()?;
    let key = ParsedPublicKey::new(&ED25519, point).ok()?;
    has_its_own.then_some(key)
}

fn rsa(map: &Cbor<'_>) -> Option<ParsedPublicKey> {
    let has_its_own = map.as_map()?.len() == 4
        && number(map, KEY_TYPE)? == RSA
        && bytes(map, EXPONENT)? == COMMON_EXPONENT;
    let modulus = bytes(map, MODULUS)?;
    let is_usable = MODULUS_BYTES.contains(&modulus.len()) && modulus.first() != Some(&0);
    let components = RsaPublicKeyComponents {
        n: modulus,
        e: COMMON_EXPONENT.as_slice(),
    };
    let key = components
        .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
        .ok()?;
    (has_its_own && is_usable).then_some(key)
}

fn number(map: &Cbor<'_>, label: i64) -> Option<i64> {
    map.get_integer(label)?.as_integer()
}

fn bytes<'a>(map: &Cbor<'a>, label: i64) -> Option<&'a [u8]> {
    map.get_integer(label)?.as_bytes()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::{KeyPair as RsaKeyPair, KeySize},
        signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256},
    };
    use minicbor::Encoder;

    use super::*;
    use crate::SigningKey;

    /// A value of a parameter.
    enum Value<'a> {
        Number(i64),
        Bytes(&'a [u8]),
    }
    use Value::{Bytes, Number};

    fn encode(parameters: &[(i64, Value<'_>)]) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        encoder.map(parameters.len() as u64).unwrap();
        for (label, value) in parameters {
            encoder.i64(*label).unwrap();
            match value {
                Number(number) => encoder.i64(*number).unwrap(),
                Bytes(bytes) => encoder.bytes(bytes).unwrap(),
            };
        }
        encoder.into_writer()
    }

    fn es256(key: &SigningKey) -> Vec<u8> {
        let (x, y) = key.public_point()[1..].split_at(32);
        encode(&[
            (1, Number(2)),
            (3, Number(-7)),
            (-1, Number(1)),
            (-2, Bytes(x)),
            (-3, Bytes(y)),
        ])
    }

    fn ed25519(key: &Ed25519KeyPair) -> Vec<u8> {
        let x = key.public_key().as_ref();
        encode(&[
            (1, Number(1)),
            (3, Number(-8)),
            (-1, Number(6)),
            (-2, Bytes(x)),
        ])
    }

    fn rs256(key: &RsaKeyPair) -> Vec<u8> {
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
        encode(&[
            (1, Number(3)),
            (3, Number(-257)),
            (-1, Bytes(&public.n)),
            (-2, Bytes(&public.e)),
        ])
    }

    #[test]
    fn each_algorithm_verifies_its_own_signatures_and_no_others() {
        let elliptic = SigningKey::generate();
        let edwards = Ed25519KeyPair::generate().unwrap();
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let mut rsa_signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            b"message",
            &mut rsa_signature,
        )
        .unwrap();
        let keys = [
            (es256(&elliptic), elliptic.sign_der(b"message")),
            (
                ed25519(&edwards),
                edwards.sign(b"message").as_ref().to_vec(),
            ),
            (rs256(&rsa), rsa_signature),
        ];
        for ((one, (bytes, signature)), algorithm) in
            keys.iter().enumerate().zip(CoseAlgorithm::ALL)
        {
            let key = CoseKey::parse(bytes).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            assert!(key.verify(b"message", signature));
            assert!(!key.verify(b"massage", signature));
            assert!(!key.verify(b"message", &[]));
            for (other, (_, theirs)) in keys.iter().enumerate() {
                assert_eq!(key.verify(b"message", theirs), one == other);
            }
        }
        let raw = elliptic.sign_raw(b"message");
        assert!(
            !CoseKey::parse(&keys[0].0).unwrap().verify(b"message", &raw),
            "r || s is not DER"
        );
    }

    #[test]
    fn a_key_has_the_parameters_of_its_algorithm_and_nothing_else() {
        let key = SigningKey::generate();
        let (x, y) = key.public_point()[1..].split_at(32);
        let point = || [(-2, Bytes(x)), (-3, Bytes(y))];
        let with = |head: Vec<(i64, Value<'static>)>| {
            let all: Vec<_> = head.into_iter().chain(point()).collect();
            CoseKey::parse(&encode(&all)).map(drop)
        };
        assert_eq!(
            with(vec![(1, Number(2)), (3, Number(-7)), (-1, Number(1))]),
            Ok(())
        );
        let edwards = Ed25519KeyPair::generate().unwrap();
        let modulus = vec![0xff; 256];
        let short = vec![0xff; 255];
        let long = vec![0xff; 513];
        let padded = [vec![0], vec![0xff; 256]].concat();
        for (bad, why) in [
            // Another algorithm than the key is of, and none.
            (
                with(vec![(1, Number(2)), (3, Number(-8)), (-1, Number(1))]),
                CoseError::Parameters,
            ),
            (
                with(vec![(1, Number(2)), (3, Number(-257)), (-1, Number(1))]),
                CoseError::Parameters,
            ),
            (
                with(vec![(1, Number(2)), (3, Number(-35)), (-1, Number(1))]),
                CoseError::Algorithm,
            ),
            (
                with(vec![(1, Number(2)), (-1, Number(1))]),
                CoseError::Algorithm,
            ),
            // Another type or curve.
            (
                with(vec![(1, Number(1)), (3, Number(-7)), (-1, Number(1))]),
                CoseError::Parameters,
            ),
            (
                with(vec![(1, Number(2)), (3, Number(-7)), (-1, Number(2))]),
                CoseError::Parameters,
            ),
            (
                with(vec![(1, Number(2)), (3, Number(-7)), (-1, Number(8))]),
                CoseError::Parameters,
            ),
            // Something optional.
            (
                with(vec![
                    (1, Number(2)),
                    (3, Number(-7)),
                    (-1, Number(1)),
                    (2, Bytes(b"kid")),
                ]),
                CoseError::Parameters,
            ),
            (
                with(vec![
                    (1, Number(2)),
                    (3, Number(-7)),
                    (-1, Number(1)),
                    (-4, Bytes(b"d")),
                ]),
                CoseError::Parameters,
            ),
        ] {
            assert_eq!(bad, Err(why));
        }
        let head = [(1, Number(2)), (3, Number(-7)), (-1, Number(1))];
        let mut off_curve = head.into_iter().collect::<Vec<_>>();
        off_curve.extend([(-2, Bytes(x)), (-3, Bytes(x))]);
        for bad in [
            off_curve,
            vec![
                (1, Number(1)),
                (3, Number(-8)),
                (-1, Number(7)),
                (-2, Bytes(x)),
            ],
            vec![
                (1, Number(1)),
                (3, Number(-8)),
                (-1, Number(6)),
                (-2, Bytes(&x[..31])),
            ],
            vec![
                (1, Number(3)),
                (3, Number(-257)),
                (-1, Bytes(&short)),
                (-2, Bytes(&[1, 0, 1])),
            ],
            vec![
                (1, Number(3)),
                (3, Number(-257)),
                (-1, Bytes(&long)),
                (-2, Bytes(&[1, 0, 1])),
            ],
            vec![
                (1, Number(3)),
                (3, Number(-257)),
                (-1, Bytes(&padded)),
                (-2, Bytes(&[1, 0, 1])),
            ],
            vec![
                (1, Number(3)),
                (3, Number(-257)),
                (-1, Bytes(&modulus)),
                (-2, Bytes(&[1])),
            ],
            vec![
                (1, Number(3)),
                (3, Number(-257)),
                (-1, Bytes(&modulus)),
                (-2, Bytes(&[3])),
            ],
        ] {
            assert_eq!(
                CoseKey::parse(&encode(&bad)).map(drop),
                Err(CoseError::Parameters)
            );
        }
        let good = ed25519(&edwards);
        assert!(CoseKey::parse(&[good.as_slice(), &[0]].concat()).is_err());
        let twice = [&[0xa6], &es256(&key)[1..], &[0x01, 0x02]].concat();
        assert_eq!(
            CoseKey::parse(&twice).map(drop),
            Err(CoseError::Encoding(CborError::Key))
        );
        assert_eq!(CoseKey::parse(&[0xa0]).map(drop), Err(CoseError::Algorithm));
        assert_eq!(CoseKey::parse(&[0x01]).map(drop), Err(CoseError::Algorithm));
    }
}
