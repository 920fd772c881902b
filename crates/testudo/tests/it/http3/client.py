"""A client of HTTP/3 by aioquic, which shares no line with Testudo.

Reads requests from its input, one JSON object a line, and writes an answer to each: `{"requests": [...]}` are sent at once
on one connection; `{"wait": "closed"}` waits until the server closes it; `{"connect": true}` opens another.
"""

import asyncio
import json
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.http = H3Connection(self._quic)
        self.answers = {}
        self.done = {}
        self.closed = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated) and not self.closed.done():
            self.closed.set_result(event.error_code)
            for done in self.done.values():
                if not done.done():
                    done.set_result({"closed": event.error_code})
        if isinstance(event, StreamReset):
            self.done[event.stream_id].set_result({"reset": event.error_code})
        for happened in self.http.handle_event(event):
            stream = happened.stream_id
            answer = self.answers.setdefault(stream, {"headers": {}, "body": ""})
            if isinstance(happened, HeadersReceived):
                fields = {name.decode(): value.decode() for name, value in happened.headers}
                answer["headers"].update(fields)
            elif isinstance(happened, DataReceived):
                answer["body"] += happened.data.decode()
            if happened.stream_ended:
                self.done[stream].set_result(answer)

    async def request(self, host, wanted):
        stream = self._quic.get_next_available_stream_id()
        self.done[stream] = asyncio.get_running_loop().create_future()
        body = wanted.get("body", "").encode()
        fields = {
            ":method": wanted.get("method", "GET"),
            ":scheme": "https",
            ":authority": host,
            ":path": wanted["path"],
            **wanted.get("headers", {}),
        }
        fields = [(name.encode(), value.encode()) for name, value in fields.items()]
        self.http.send_headers(stream, fields, end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.transmit()
        return await self.done[stream]


async def main(host, port, authorities):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
    configuration.load_verify_locations(authorities)
    configuration.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.get_running_loop()
    said = await loop.run_in_executor(None, sys.stdin.readline)
    while said:
        async with connect(host, port, configuration=configuration, create_protocol=Client) as client:
            while said := await loop.run_in_executor(None, sys.stdin.readline):
                wanted = json.loads(said)
                if wanted.get("connect"):
                    break
                if wanted.get("wait"):
                    answer = {"closed": await client.closed}
                else:
                    requests = [client.request(host, request) for request in wanted["requests"]]
                    answer = await asyncio.gather(*requests)
                print(json.dumps(answer), flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
