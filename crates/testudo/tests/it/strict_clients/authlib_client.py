"""An application built on Authlib and requests; what it found is a line of JSON for `strict_clients/languages.rs`.

    python3 authlib_client.py <JSON with issuer, client_id, key, kid, redirect_uri>
"""

import base64
import json
import sys

import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet


def main(issuer, client_id, key, kid, redirect_uri, **_):
    metadata = AuthorizationServerMetadata(requests.get(f"{issuer}/.well-known/openid-configuration", timeout=10).json())
    metadata.validate()
    assert metadata["issuer"] == issuer
    session = OAuth2Session(
        client_id,
        client_secret=ECKey.import_key(pem(key)),
        token_endpoint_auth_method="private_key_jwt",
        revocation_endpoint_auth_method="private_key_jwt",
        scope="openid profile offline_access",
        redirect_uri=redirect_uri,
        code_challenge_method="S256",
    )
    # The audience of an assertion is the issuer (draft-ietf-oauth-rfc7523bis section 4).
    session.register_client_auth_method(PrivateKeyJWT(issuer, headers={"kid": kid}, alg="ES256"))

    verifier, nonce = token_text(), token_text()
    address, state = session.create_authorization_url(
        metadata["authorization_endpoint"], code_verifier=verifier, nonce=nonce, prompt="consent"
    )
    session.state = state
    callback = come_back(address)
    token = session.fetch_token(metadata["token_endpoint"], authorization_response=callback, code_verifier=verifier)

    keys = KeySet.import_key_set(requests.get(metadata["jwks_uri"], timeout=10).json())
    claims = verified(token, keys, issuer, client_id, nonce)
    wrong = []
    mistakes = [
        {"issuer": "https://somebody.example"},
        {"client_id": "somebody-else"},
        {"nonce": "another"},
    ]
    if "at_hash" in claims:
        mistakes.append({"access_token": "another"})
    for mistaken in mistakes:
        try:
            verified(token, keys, **{"issuer": issuer, "client_id": client_id, "nonce": nonce, **mistaken})
        except JoseError as error:
            wrong.append(error.error)

    info = session.get(metadata["userinfo_endpoint"]).json()
    assert info["sub"] == claims["sub"]
    refreshed = session.refresh_token(metadata["token_endpoint"], refresh_token=token["refresh_token"])
    assert refreshed["access_token"] != token["access_token"]
    again = refusal(
        lambda: session.fetch_token(
            metadata["token_endpoint"], authorization_response=callback, code_verifier=verifier, state=state
        )
    )
    after = refusal(
        lambda: session.refresh_token(metadata["token_endpoint"], refresh_token=refreshed.get("refresh_token", token["refresh_token"]))
    )
    say({"name": info["preferred_username"], "wrong": wrong, "again": again, "after": after})


def verified(token, keys, issuer, client_id, nonce, access_token=None):
    """The claims of the ID token, checked as OpenID Connect Core section 3.1.3.7 says."""
    signed = jwt.decode(token["id_token"], keys, algorithms=["ES256"])
    claims = CodeIDToken(
        signed.claims,
        signed.header,
        options={"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": client_id}},
        params={"client_id": client_id, "nonce": nonce, "access_token": access_token or token["access_token"]},
    )
    claims.validate(leeway=5)
    return claims


def refusal(call):
    """The error code a request is refused with."""
    try:
        call()
    except OAuthError as error:
        return error.error
    return None


def pem(pkcs8):
    der = base64.urlsafe_b64decode(pkcs8 + "=" * (-len(pkcs8) % 4))
    text = base64.b64encode(der).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"


def token_text():
    from authlib.common.security import generate_token

    return generate_token(48)


def come_back(address):
    say({"open": address})
    return sys.stdin.readline().strip()


def say(value):
    print(json.dumps(value), flush=True)


main(**json.loads(sys.argv[-1]))
