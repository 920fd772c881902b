//! Certificates that our CA would never write, signed with its key, and chains that do not hold.

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use testudo_model::Timestamp;
use testudo_trust::{
    CertificateAuthority, MAX_CERTIFICATE_BYTES, MAX_CHAIN, Svid, SvidKey, TrustBundle, X509Error,
    certificate_thumbprint, certificate_times, spiffe_id_of, verify_signature,
};

use crate::fleet::{DAY, Fleet, SVID_LIFETIME};

const ORDERS: &str = "spiffe://bookshop.example/svc/orders";

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn date(at: Timestamp) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(at.unix_seconds()).unwrap()
}

fn key_pair(pkcs8: &[u8]) -> KeyPair {
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8)).unwrap()
}

fn issuer(authority: &CertificateAuthority) -> Issuer<'static, KeyPair> {
    let key = key_pair(authority.key_pkcs8().expose());
    Issuer::from_ca_cert_der(&CertificateDer::from(authority.cert_der()), key).unwrap()
}

/// A leaf as the profile wants it, to be spoiled.
fn good(fleet: &Fleet) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(ORDERS)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = date(fleet.now());
    params.not_after = date(fleet.now() + SVID_LIFETIME);
    params
}

/// What the bundle says to a leaf that the CA signed after `spoil`.
fn verdict(spoil: impl FnOnce(&mut CertificateParams)) -> Result<String, X509Error> {
    let fleet = Fleet::new();
    let mut params = good(&fleet);
    spoil(&mut params);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer(&fleet.authority)).unwrap();
    let id = fleet.bundle().verify_svid(&[leaf.der()], fleet.now())?;
    Ok(id.to_string())
}

fn breaks_profile(spoil: impl FnOnce(&mut CertificateParams)) -> bool {
    matches!(verdict(spoil), Err(X509Error::Profile(_)))
}

#[test]
fn an_svid_of_the_fleet_is_its_identity() {
    let fleet = Fleet::new();
    let svid = fleet.svid("orders");
    assert_eq!(
        fleet
            .bundle()
            .verify_svid(svid.chain(), fleet.now())
            .unwrap(),
        fleet.id("orders")
    );
    assert_eq!(svid.id(), &fleet.id("orders"));
    assert_eq!(spiffe_id_of(&svid.chain()[0]).unwrap(), fleet.id("orders"));
    let times = (svid.not_before(), svid.not_after());
    assert_eq!(certificate_times(&svid.chain()[0]).unwrap(), times);
    assert_eq!(svid.not_after(), fleet.now() + SVID_LIFETIME);
    assert_eq!(certificate_thumbprint(&svid.chain()[0]).len(), 43);
    let signature = svid.sign(b"block");
    assert!(verify_signature(&svid.chain()[0], b"block", &signature));
    assert!(!verify_signature(&svid.chain()[0], b"blocK", &signature));
    assert!(!verify_signature(
        fleet.authority.cert_der(),
        b"block",
        &signature
    ));
}

#[test]
fn the_leaf_to_be_spoiled_is_good_to_begin_with() {
    assert_eq!(verdict(|_| {}).unwrap(), ORDERS);
    let with_dns = |params: &mut CertificateParams| params.subject_alt_names.push(dns("orders"));
    assert_eq!(verdict(with_dns).unwrap(), ORDERS);
    assert_eq!(
        verdict(|params| params.extended_key_usages.clear()).unwrap(),
        ORDERS
    );
}

#[test]
fn a_second_uri_name_is_never_a_second_identity() {
    let admin = "spiffe://bookshop.example/testudo/server";
    for names in [
        [ORDERS, admin],
        [admin, ORDERS],
        [ORDERS, ORDERS],
        [ORDERS, "https://a.example"],
    ] {
        assert!(
            breaks_profile(|params| params.subject_alt_names = names.map(uri).to_vec()),
            "{names:?}"
        );
    }
    // Hidden between other names.
    let hidden = vec![dns("a"), uri(ORDERS), dns("b"), uri(admin)];
    assert!(breaks_profile(|params| params.subject_alt_names = hidden));
    // In a second extension of the same kind.
    let second = vec![
        0x30, 0x0a, 0x86, 0x08, b's', b'p', b'i', b'f', b'f', b'e', b':', b'/',
    ];
    let san = CustomExtension::from_oid_content(&[2, 5, 29, 17], second);
    let verdict = verdict(|params| params.custom_extensions.push(san));
    assert_eq!(verdict, Err(X509Error::Malformed("certificate")));
}

#[test]
fn a_leaf_without_a_proper_name_is_nobody() {
    assert!(breaks_profile(
        |params| params.subject_alt_names = vec![dns("orders")]
    ));
    assert!(breaks_profile(|params| params.subject_alt_names.clear()));
    assert!(breaks_profile(
        |params| params.subject_alt_names = vec![uri("spiffe://bookshop.example")]
    ));
    for bad in [
        "https://bookshop.example/svc/orders",
        "spiffe://bookshop.example/svc/orders\0.attacker.example",
        "spiffe://bookshop.example/svc/../testudo/server",
        "spiffe://bookshop.example:443/svc/orders",
    ] {
        let verdict = verdict(|params| params.subject_alt_names = vec![uri(bad)]);
        assert!(
            matches!(verdict, Err(X509Error::SpiffeId(_))),
            "{bad:?}: {verdict:?}"
        );
    }
    assert!(breaks_profile(|params| params
        .subject_alt_names
        .push(dns("orders\0.attacker.example"))));
    let foreign = verdict(|params| {
        params.subject_alt_names = vec![uri("spiffe://other.example/svc/orders")];
    });
    assert!(matches!(foreign, Err(X509Error::ForeignTrustDomain { .. })));
}

#[test]
fn a_certificate_that_may_sign_others_identifies_no_workload() {
    for is_ca in [
        BasicConstraints::Unconstrained,
        BasicConstraints::Constrained(0),
    ] {
        assert!(breaks_profile(|params| params.is_ca = IsCa::Ca(is_ca)));
    }
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        assert!(breaks_profile(|params| params.key_usages.push(usage)));
    }
    let fleet = Fleet::new();
    let root = fleet.authority.cert_der();
    assert!(fleet.bundle().verify_svid(&[root], fleet.now()).is_err());
}

#[test]
fn usages_are_as_specified() {
    assert!(breaks_profile(|params| params.key_usages.clear()));
    assert!(breaks_profile(
        |params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]
    ));
    for one in [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ] {
        assert!(breaks_profile(
            |params| params.extended_key_usages = vec![one]
        ));
    }
}

#[test]
fn an_extension_we_do_not_understand_and_must_is_refused() {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    let verdict = verdict(|params| params.custom_extensions.push(extension));
    assert!(
        matches!(verdict, Err(X509Error::Untrusted(_))),
        "{verdict:?}"
    );
}

#[test]
fn keys_on_other_curves_are_refused() {
    let fleet = Fleet::new();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let leaf = good(&fleet)
        .signed_by(&key, &issuer(&fleet.authority))
        .unwrap();
    let verdict = fleet.bundle().verify_svid(&[leaf.der()], fleet.now());
    assert_eq!(verdict, Err(X509Error::UnsupportedKey));
}

#[test]
fn sizes_are_bounded() {
    let fleet = Fleet::new();
    let (bundle, now) = (fleet.bundle(), fleet.now());
    let leaf = fleet.svid("orders").chain()[0].clone();
    let none: [&[u8]; 0] = [];
    assert_eq!(
        bundle.verify_svid(&none, now),
        Err(X509Error::ChainLength(0))
    );
    let long = vec![leaf.clone(); MAX_CHAIN + 1];
    assert_eq!(
        bundle.verify_svid(&long, now),
        Err(X509Error::ChainLength(MAX_CHAIN + 1))
    );
    let large = vec![0x30; MAX_CERTIFICATE_BYTES + 1];
    assert_eq!(bundle.verify_svid(&[&large], now), Err(X509Error::TooLarge));
    assert_eq!(
        bundle.verify_svid(&[&leaf, &large], now),
        Err(X509Error::TooLarge)
    );
    let trailing = [leaf.as_slice(), &[0]].concat();
    assert_eq!(
        bundle.verify_svid(&[&trailing], now),
        Err(X509Error::Malformed("certificate"))
    );
}

#[test]
fn validity_holds_between_its_ends_for_leaf_and_root() {
    let fleet = Fleet::new();
    let (bundle, svid) = (fleet.bundle(), fleet.svid("orders"));
    let at = |time| bundle.verify_svid(svid.chain(), time);
    let minute = Duration::from_secs(60);
    assert!(at(svid.not_after() - minute).is_ok());
    assert_eq!(at(svid.not_after() + minute), Err(X509Error::Expired));
    assert_eq!(at(svid.not_before() - minute), Err(X509Error::NotYetValid));
    assert_eq!(
        at(Timestamp::from_unix_seconds(-1)),
        Err(X509Error::NotYetValid)
    );
    // A leaf that outlives its root is worth nothing after the root's end.
    let mut params = good(&fleet);
    params.not_after = date(fleet.now() + 3 * DAY);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer(&fleet.authority)).unwrap();
    assert!(
        bundle
            .verify_svid(&[leaf.der()], fleet.now() + DAY - minute)
            .is_ok()
    );
    assert_eq!(
        bundle.verify_svid(&[leaf.der()], fleet.now() + 2 * DAY),
        Err(X509Error::Expired)
    );
}

#[test]
fn a_root_of_the_same_name_and_another_key_is_another_root() {
    let (fleet, impostor) = (Fleet::new(), Fleet::new());
    let forged = impostor.svid("orders");
    let alone = fleet.bundle().verify_svid(forged.chain(), fleet.now());
    assert!(matches!(alone, Err(X509Error::Untrusted(_))));
    let with_root = impostor.svid_with_root("orders");
    let brought = fleet.bundle().verify_svid(with_root.chain(), fleet.now());
    assert!(matches!(brought, Err(X509Error::Untrusted(_))));
}

#[test]
fn a_leaf_signs_nobody() {
    let fleet = Fleet::new();
    let holder = fleet.svid("orders");
    let key = key_pair(holder.key().to_pkcs8().expose());
    // Like the leaf, an issuer with an empty subject.
    let mut issuer = good(&fleet);
    issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut params = good(&fleet);
    params.subject_alt_names = vec![uri("spiffe://bookshop.example/testudo/server")];
    let forged = params.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(issuer, key));
    let forged = forged.unwrap().der().to_vec();
    let holder = holder.chain()[0].clone();
    let with_issuer = fleet.bundle().verify_svid(&[&forged, &holder], fleet.now());
    assert!(
        matches!(with_issuer, Err(X509Error::Profile(_))),
        "{with_issuer:?}"
    );
    let alone = fleet.bundle().verify_svid(&[&forged], fleet.now());
    assert!(matches!(alone, Err(X509Error::Untrusted(_))), "{alone:?}");
    let as_root = TrustBundle::new(fleet.authority.trust_domain().clone(), vec![holder]);
    assert!(matches!(as_root, Err(X509Error::Profile(_))));
}

/// A root that allows intermediates, one intermediate after `spoil`, and a good leaf under it.
fn through_intermediate(spoil: impl FnOnce(&mut CertificateParams)) -> Result<(), X509Error> {
    let fleet = Fleet::new();
    let ca = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date(fleet.now());
        params.not_after = date(fleet.now() + DAY);
        params
    };
    let (root_params, mut middle_params) = (ca("root"), ca("middle"));
    spoil(&mut middle_params);
    let (root_key, middle_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = root_params.self_signed(&root_key).unwrap();
    let middle = middle_params
        .signed_by(&middle_key, &Issuer::new(root_params, root_key))
        .unwrap();
    // The leaf's issuer is built by hand, so that rcgen does not object to a spoiled one.
    let issuer = Issuer::new(ca("middle"), middle_key);
    let leaf = good(&fleet)
        .signed_by(&KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    let domain = fleet.authority.trust_domain().clone();
    let bundle = TrustBundle::new(domain, vec![root.der().to_vec()]).unwrap();
    bundle
        .verify_svid(&[leaf.der(), middle.der()], fleet.now())
        .map(drop)
}

#[test]
fn an_intermediate_must_be_a_signing_certificate_of_the_trust_domain() {
    assert_eq!(through_intermediate(|_| {}), Ok(()));
    let own = uri("spiffe://bookshop.example");
    assert_eq!(
        through_intermediate(|params| params.subject_alt_names = vec![own]),
        Ok(())
    );
    type Spoil = fn(&mut CertificateParams);
    let spoils: [(&str, Spoil); 5] = [
        ("no CA", |params| params.is_ca = IsCa::ExplicitNoCa),
        ("no keyCertSign", |params| {
            params.key_usages = vec![KeyUsagePurpose::CrlSign]
        }),
        ("no keyUsage", |params| params.key_usages.clear()),
        ("a workload's id", |params| {
            params.subject_alt_names = vec![uri(ORDERS)]
        }),
        ("another domain", |params| {
            params.subject_alt_names = vec![uri("spiffe://other.example")];
        }),
    ];
    for (name, spoil) in spoils {
        assert!(
            matches!(through_intermediate(spoil), Err(X509Error::Profile(_))),
            "{name}"
        );
    }
}

#[test]
fn our_root_allows_no_intermediate() {
    let fleet = Fleet::new();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "middle");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let middle = params.signed_by(&key, &issuer(&fleet.authority)).unwrap();
    let leaf = good(&fleet).signed_by(&KeyPair::generate().unwrap(), &Issuer::new(params, key));
    let verdict = fleet
        .bundle()
        .verify_svid(&[leaf.unwrap().der(), middle.der()], fleet.now());
    assert!(
        matches!(verdict, Err(X509Error::Untrusted(_))),
        "{verdict:?}"
    );
}

#[test]
fn during_a_rotation_both_roots_hold_and_afterwards_one() {
    let old = Fleet::new();
    let new = old.with_new_root();
    let (from_old, from_new) = (old.svid("orders"), new.svid("orders"));
    let holds =
        |bundle: &TrustBundle, svid: &Svid| bundle.verify_svid(svid.chain(), old.now()).is_ok();
    let both = old.bundle_with(&new);
    assert!(holds(&both, &from_old) && holds(&both, &from_new));
    assert!(holds(&new.bundle(), &from_new) && !holds(&new.bundle(), &from_old));
}

#[test]
fn a_bundle_survives_its_document_and_takes_roots_only() {
    let fleet = Fleet::new();
    let domain = || fleet.authority.trust_domain().clone();
    let both = fleet.bundle_with(&fleet.with_new_root());
    let again = TrustBundle::from_json(domain(), &both.to_json()).unwrap();
    assert_eq!(again.roots(), both.roots());
    assert_eq!(again.sha256(), both.sha256());
    for bad in [
        "",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"use":"x509-svid"}]}"#,
    ] {
        assert!(
            matches!(
                TrustBundle::from_json(domain(), bad),
                Err(X509Error::Bundle(_))
            ),
            "{bad}"
        );
    }
    let leaf = fleet.svid("orders").chain()[0].clone();
    assert!(matches!(
        TrustBundle::new(domain(), vec![leaf]),
        Err(X509Error::Profile(_))
    ));
    let foreign = Fleet::of("other.example").authority.cert_der().to_vec();
    assert!(matches!(
        TrustBundle::new(domain(), vec![foreign]),
        Err(X509Error::Profile(_))
    ));
    assert!(TrustBundle::new(domain(), vec![]).is_err());
    let root = fleet.authority.cert_der().to_vec();
    assert!(TrustBundle::new(domain(), vec![root; 17]).is_err());
}

#[test]
fn an_svid_needs_its_own_key() {
    let fleet = Fleet::new();
    let leaf = fleet.leaf("orders", &SvidKey::generate());
    let stolen = Svid::new(vec![leaf], SvidKey::generate());
    assert_eq!(stolen.unwrap_err(), X509Error::KeyMismatch);
    assert_eq!(
        Svid::new(vec![], SvidKey::generate()).unwrap_err(),
        X509Error::ChainLength(0)
    );
}

proptest! {
    #[test]
    fn a_flipped_bit_anywhere_in_a_leaf_is_refused(
        at in any::<proptest::sample::Index>(), bit in 0u8..8,
    ) {
        let fleet = Fleet::new();
        let mut leaf = fleet.svid("orders").chain()[0].clone();
        let at = at.index(leaf.len());
        leaf[at] ^= 1 << bit;
        prop_assert!(fleet.bundle().verify_svid(&[&leaf], fleet.now()).is_err());
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused(bytes: Vec<u8>) {
        let fleet = Fleet::new();
        prop_assert!(fleet.bundle().verify_svid(&[&bytes], fleet.now()).is_err());
        prop_assert!(certificate_times(&bytes).is_err());
        prop_assert!(!verify_signature(&bytes, b"", &[0; 64]));
    }
}
