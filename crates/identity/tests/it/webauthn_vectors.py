"""Makes webauthn_vectors.json: passkeys made and used with the package `cryptography`, by somebody else's arithmetic.

    python3 webauthn_vectors.py > webauthn_vectors.json

Needs the package `cryptography`. The keys are new each time, so the file changes; it is made once.
"""

import base64
import datetime
import hashlib
import json
import os
import struct

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

ORIGIN = "https://id.bookshop.example"
RP_ID = "id.bookshop.example"
AAGUID = bytes.fromhex("cb69481e8ff7403993ec0a2729a154a8")


def head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    if number < 256:
        return bytes([major << 5 | 24, number])
    return bytes([major << 5 | 25]) + struct.pack(">H", number)


def cbor(value):
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value)) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    return head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value):
    return value.to_bytes((value.bit_length() + 7) // 8)


class Es256:
    number = -7

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())

    def cose(self):
        public = self.key.public_key().public_numbers()
        return {1: 2, 3: -7, -1: 1, -2: public.x.to_bytes(32), -3: public.y.to_bytes(32)}

    def sign(self, data):
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))


class EdDsa:
    number = -8

    def __init__(self):
        self.key = ed25519.Ed25519PrivateKey.generate()

    def cose(self):
        return {1: 1, 3: -8, -1: 6, -2: self.key.public_key().public_bytes_raw()}

    def sign(self, data):
        return self.key.sign(data)


class Rs256:
    number = -257

    def __init__(self):
        self.key = rsa.generate_private_key(65537, 2048)

    def cose(self):
        public = self.key.public_key().public_numbers()
        return {1: 3, 3: -257, -1: number(public.n), -2: number(public.e)}

    def sign(self, data):
        return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def name(unit, common):
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "SE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bookshop Keys"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def certificate(subject, key, issuer, issuer_key, is_ca):
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2120, 1, 1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
    )
    if not is_ca:
        aaguid = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.45724.1.1.4"), b"\x04\x10" + AAGUID)
        builder = builder.add_extension(aaguid, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def der(made):
    return made.public_bytes(serialization.Encoding.DER)


def pem(made):
    return made.public_bytes(serialization.Encoding.PEM).decode()


def client_data(kind, challenge):
    return json.dumps(
        {"type": kind, "challenge": text(challenge), "origin": ORIGIN, "crossOrigin": False},
        separators=(",", ":"),
    ).encode()


def authenticator_data(flags, count, behind=b""):
    return hashlib.sha256(RP_ID.encode()).digest() + bytes([flags]) + struct.pack(">I", count) + behind


def vector(title, credential, attest):
    credential_id = os.urandom(32)
    challenge, asserted = os.urandom(32), os.urandom(32)
    made = client_data("webauthn.create", challenge)
    behind = AAGUID + struct.pack(">H", len(credential_id)) + credential_id + cbor(credential.cose())
    data = authenticator_data(0x45, 1, behind)
    fmt, statement = attest(credential, data + hashlib.sha256(made).digest())
    used = client_data("webauthn.get", asserted)
    used_data = authenticator_data(0x05, 2)
    return {
        "name": title,
        "aaguid": "cb69481e-8ff7-4039-93ec-0a2729a154a8",
        "certified": "x5c" in statement,
        "challenge": text(challenge),
        "client_data": text(made),
        "attestation_object": text(cbor({"fmt": fmt, "attStmt": statement, "authData": data})),
        "assertion": {
            "challenge": text(asserted),
            "client_data": text(used),
            "authenticator_data": text(used_data),
            "signature": text(credential.sign(used_data + hashlib.sha256(used).digest())),
        },
    }


def none(_credential, _signed):
    return "none", {}


def own(credential, signed):
    return "packed", {"alg": credential.number, "sig": credential.sign(signed)}


def certified_by(attestation_key, chain):
    def attest(_credential, signed):
        statement = {"alg": attestation_key.number, "sig": attestation_key.sign(signed), "x5c": chain}
        return "packed", statement

    return attest


def main():
    root_key, other_key = Es256(), Es256()
    maker = name("Authenticator Root", "Bookshop Root")
    root = certificate(maker, root_key.key, maker, root_key.key, True)
    other_root = certificate(maker, other_key.key, maker, other_key.key, True)
    model = name("Authenticator Attestation", "Bookshop Key 1")
    attesting, attesting_rsa = Es256(), Rs256()
    leaf = certificate(model, attesting.key, maker, root_key.key, False)
    rsa_leaf = certificate(model, attesting_rsa.key, maker, root_key.key, False)
    registrations = [
        vector("none ES256", Es256(), none),
        vector("none EdDSA", EdDsa(), none),
        vector("none RS256", Rs256(), none),
        vector("packed self ES256", Es256(), own),
        vector("packed self EdDSA", EdDsa(), own),
        vector("packed self RS256", Rs256(), own),
        vector("packed x5c ES256", Es256(), certified_by(attesting, [der(leaf)])),
        vector("packed x5c RS256 of ES256", Es256(), certified_by(attesting_rsa, [der(rsa_leaf)])),
    ]
    print(json.dumps({"root": pem(root), "other_root": pem(other_root), "registrations": registrations}, indent=2))


main()
