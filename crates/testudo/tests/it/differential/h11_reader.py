"""Reads requests with h11 and answers each with how it was read: method, target, body in hexadecimal."""

import socket
import threading

import h11


def serve(stream):
    connection = h11.Connection(h11.SERVER)
    try:
        while answer(stream, connection):
            connection.start_next_cycle()
    except h11.RemoteProtocolError:
        stream.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    except OSError:
        pass
    finally:
        stream.close()


def answer(stream, connection):
    """One request; whether another may follow."""
    request, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(stream.recv(65536))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            return False
    reading = b" ".join([request.method, request.target.hex().encode(), body.hex().encode() or b"-"])
    fields = [(b"X-Reading", reading), (b"Content-Length", b"0")]
    for part in h11.Response(status_code=200, headers=fields), h11.EndOfMessage():
        stream.sendall(connection.send(part))
    return connection.our_state is h11.DONE


listener = socket.create_server(("127.0.0.1", 0), backlog=512)
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
