"""A mail server that tells what it gets, a line of JSON for each letter: aiosmtpd, which nobody adapted.

server.py PORT KIND CHAIN KEY, where KIND is starttls or tls. Both want the name `fleet` and its password. Addresses that begin
with `nobody` are refused; those that begin with `later` are told to come again, once.
"""

import email
import email.policy
import json
import ssl
import sys
import time

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword


class Mailboxes:
    def __init__(self):
        self.seen = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return f"550 5.1.1 <{address}> is not here"
        if address.startswith("later") and address not in self.seen:
            self.seen.add(address)
            return f"451 4.7.1 <{address}> comes again"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        letter = email.message_from_bytes(envelope.content, policy=email.policy.default)
        parts = {part.get_content_type(): part.get_content() for part in letter.walk() if not part.is_multipart()}
        said = {
            "to": envelope.rcpt_tos,
            "from": envelope.mail_from,
            "tls": session.ssl is not None,
            "login": session.authenticated,
            "headers": [[name, str(value)] for name, value in letter.items()],
            "text": parts["text/plain"],
            "html": parts["text/html"],
        }
        print(json.dumps(said), flush=True)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, given):
    is_right = isinstance(given, LoginPassword) and (given.login, given.password) == (b"fleet", b"the-fleet-sends-mail")
    return AuthResult(success=is_right, handled=is_right)


def main():
    port, kind, chain, key = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    way = {"tls_context": context, "require_starttls": True} if kind == "starttls" else {"ssl_context": context}
    controller = Controller(
        Mailboxes(),
        hostname="127.0.0.1",
        port=int(port),
        auth_required=True,
        # What is TLS from the beginning is no TLS to it.
        auth_require_tls=kind == "starttls",
        authenticator=authenticate,
        **way,
    )
    controller.start()
    print(json.dumps({"ready": True}), flush=True)
    while True:
        time.sleep(60)


main()
