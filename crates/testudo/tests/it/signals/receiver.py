"""A receiver of shared signals: Python's `http.server`, `requests` and `joserfc`, which nobody adapted.

receiver.py push ISSUER CA AUDIENCE ALGORITHM
receiver.py poll ISSUER CA AUDIENCE ALGORITHM ENDPOINT

Pushed to, it says its port and then a line of JSON for each request. Lines on its standard input are the statuses it answers
with from then on. Polling, each line of its standard input is an access token and the JSON it polls with, and each line of
its output what it got. Every token is verified with the keys of the transmitter, as its metadata say.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit, urlunsplit

import requests
from joserfc import jwt
from joserfc.jwk import KeySet

MODE, ISSUER, CA, AUDIENCE, ALGORITHM = sys.argv[1:6]


def say(said):
    print(json.dumps(said), flush=True)


def metadata():
    at = urlsplit(ISSUER)
    path = f"/.well-known/ssf-configuration{at.path}"
    found = requests.get(urlunsplit((at.scheme, at.netloc, path, "", "")), verify=CA, timeout=10)
    found.raise_for_status()
    assert found.headers["content-type"] == "application/json", found.headers
    said = found.json()
    assert said["issuer"] == ISSUER, said
    assert said["spec_version"] == "1_0", said
    return said


def verified(token):
    keys = requests.get(metadata()["jwks_uri"], verify=CA, timeout=10).json()
    decoded = jwt.decode(token, KeySet.import_key_set(keys), algorithms=[ALGORITHM])
    assert decoded.header["typ"] == "secevent+jwt", decoded.header
    claims = decoded.claims
    assert claims["iss"] == ISSUER and claims["aud"] == AUDIENCE, claims
    assert "sub" not in claims and "exp" not in claims and "nonce" not in claims, claims
    assert isinstance(claims["iat"], int) and claims["jti"] and claims["txn"], claims
    assert claims["sub_id"]["format"] in ("iss_sub", "complex", "opaque"), claims
    assert len(claims["events"]) == 1, claims
    return claims


class Pushed(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 202

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        assert self.headers["content-type"] == "application/secevent+jwt", self.headers
        assert "application/json" in self.headers["accept"], self.headers
        status = Pushed.status
        answer = b""
        if status == 202:
            say({"claims": verified(body), "authorization": self.headers["authorization"]})
        else:
            say({"refused": status})
            answer = json.dumps({"err": "access_denied", "description": "not now"}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def push():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pushed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say({"port": server.server_address[1]})
    for line in sys.stdin:
        Pushed.status = int(line)
        say({"answers": Pushed.status})


def poll():
    for line in sys.stdin:
        token, _, body = line.strip().partition(" ")
        asked = requests.post(
            sys.argv[6],
            data=body,
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
            verify=CA,
            timeout=60,
        )
        said = {"status": asked.status_code, "seconds": asked.elapsed.total_seconds()}
        if asked.status_code == 200:
            answer = asked.json()
            said["more"] = answer.get("moreAvailable", False)
            said["sets"] = {jti: verified(token) for jti, token in answer["sets"].items()}
            assert all(claims["jti"] == jti for jti, claims in said["sets"].items()), said
        say(said)


{"push": push, "poll": poll}[MODE]()
