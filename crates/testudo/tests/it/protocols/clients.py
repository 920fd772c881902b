"""Clients for the tests of protocols. Each prints a line of JSON for each thing that happened.

clients.py websocket|grpc GATEWAY CA [TOKEN] STEP...
"""

import asyncio
import json
import os
import ssl
import sys


def say(**happened):
    print(json.dumps(happened), flush=True)


def websocket(gateway, ca, token, *steps):
    # The blocking client of this package reads and writes one TLS connection from two threads, and at times hangs.
    asyncio.run(websocket_steps(gateway, ca, token, *steps))


async def websocket_steps(gateway, ca, token, path, *steps):
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidStatus

    fields = {"Authorization": f"Bearer {token}"} if token else {}
    opening = connect(
        f"wss://{gateway}{path}",
        ssl=ssl.create_default_context(cafile=ca),
        subprotocols=["chat.v1", "chat.v2"],
        additional_headers=fields,
        proxy=None,
    )
    try:
        async with opening as socket:
            say(opened=json.loads(await socket.recv()), subprotocol=socket.subprotocol)
            for step in steps:
                if step == "wait":
                    await socket.recv()
                elif step == "large":
                    message = os.urandom(1_000_000)
                    await socket.send(message)
                    say(same=await socket.recv() == message)
                else:
                    await socket.send(step)
                    say(heard=await socket.recv())
    except InvalidStatus as error:
        problem = json.loads(error.response.body)
        say(refused=error.response.status_code, code=problem["code"])
    except ConnectionClosed as error:
        closed = error.rcvd
        say(ended=True, closed=closed and closed.code, reason=closed and closed.reason)


def grpc(gateway, ca, token, *steps):
    import grpc

    trust = grpc.ssl_channel_credentials(open(ca, "rb").read())
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.secure_channel(gateway, trust) as channel:
        for step in steps:
            method, _, argument = step.partition(" ")
            path = f"/test.Echo/{method}"
            sent = argument.encode()
            several = (word.encode() for word in argument.split())
            arguments = {"metadata": metadata, "timeout": 10}
            try:
                if method == "ClientStream":
                    answer, call = channel.stream_unary(path).with_call(several, **arguments)
                    answers = [answer]
                elif method == "ServerStream":
                    call = channel.unary_stream(path)(sent, **arguments)
                    answers = list(call)
                elif method == "Both":
                    call = channel.stream_stream(path)(several, **arguments)
                    answers = list(call)
                else:
                    if method == "Slow":
                        path, arguments["timeout"] = "/test.Echo/ServerStream", 0.5
                    answer, call = channel.unary_unary(path).with_call(sent, **arguments)
                    answers = [answer]
                trailers = {name: value for name, value in call.trailing_metadata()}
                say(answers=[answer.decode() for answer in answers], user=trailers.get("x-seen-user"))
            except grpc.RpcError as error:
                trailers = {name for name, _ in (*error.trailing_metadata(), *error.initial_metadata())}
                say(
                    status=error.code().name,
                    details=error.details(),
                    decided="testudo-decision" in trailers,
                )


globals()[sys.argv[1]](*sys.argv[2:])
