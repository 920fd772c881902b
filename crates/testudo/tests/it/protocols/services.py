"""Services for the tests of protocols: third-party servers that know nothing of Testudo.

services.py websocket|grpc|events PORT
"""

import json
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def websocket(port):
    from websockets.sync.client import connect
    from websockets.sync.server import serve

    seen = 0

    def handle(socket):
        nonlocal seen
        seen += 1
        fields = socket.request.headers
        told = {
            "path": socket.request.path,
            "user": fields.get("X-User-Name"),
            "caller": fields.get("X-Calling-Service"),
            "authorization": fields.get("Authorization"),
            "subprotocol": socket.subprotocol,
            "extensions": [extension.name for extension in socket.protocol.extensions],
            "seen": seen,
        }
        socket.send(json.dumps(told))
        for message in socket:
            if message == "close":
                socket.close(4000, "as you wish")
            elif isinstance(message, str) and message.startswith("ask "):
                # `HTTP_PROXY` leads to the sidecar; the trace tells on whose behalf.
                trace = {"traceparent": fields["traceparent"]}
                try:
                    with connect(message[4:], subprotocols=["chat.v2"], additional_headers=trace) as other:
                        socket.send(other.recv())
                except Exception as error:
                    socket.send(json.dumps({"error": str(error)}))
            else:
                socket.send(message)

    with serve(handle, "127.0.0.1", port, subprotocols=["chat.v2"]) as server:
        server.serve_forever()


def grpc(port):
    import grpc

    def name(context):
        fields = dict(context.invocation_metadata())
        context.set_trailing_metadata((("x-seen-user", fields.get("x-user-name", "nobody")),))
        return fields

    def unary(message, context):
        fields = name(context)
        if message == b"fail":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish: 100 %")
        if message.startswith(b"ask "):
            # Through the sidecar, which `http_proxy` names.
            with grpc.insecure_channel(message[4:].decode()) as channel:
                call = channel.unary_unary("/test.Echo/Unary")
                try:
                    return call(b"hello", timeout=5, metadata=(("traceparent", fields["traceparent"]),))
                except grpc.RpcError as error:
                    return error.code().name.encode()
        return message + b" for " + fields.get("x-user-name", "nobody").encode()

    def client_stream(messages, context):
        name(context)
        return b" ".join(messages)

    def server_stream(message, context):
        name(context)
        for number in range(int(message)):
            yield str(number).encode()
            time.sleep(0.05)

    def both(messages, context):
        name(context)
        yield from messages

    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


class Events(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    listeners = 0
    lock = threading.Lock()

    def do_GET(self):
        if self.path == "/listeners":
            body = str(Events.listeners).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        with Events.lock:
            Events.listeners += 1
        try:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            number = 0
            while True:
                self.wfile.write(f"id: {number}\ndata: {self.headers['X-User-Name']}\n\n".encode())
                number += 1
                time.sleep(0.2)
        except OSError:
            pass
        finally:
            with Events.lock:
                Events.listeners -= 1
            self.close_connection = True

    def log_message(self, *_):
        pass


def events(port):
    ThreadingHTTPServer(("127.0.0.1", port), Events).serve_forever()


globals()[sys.argv[1]](int(sys.argv[2]))
