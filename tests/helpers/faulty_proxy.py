"""A proxy in front of a server that goes wrong as told, and goes right again."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

from tests.helpers.commands import free_port

_PATIENCE_S = 60


class Exchange(BaseHTTPRequestHandler):
    """One request of a client; what becomes of it is what its proxy does just then."""

    server: "_Listener"

    def answer(self) -> None:
        self.request_body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # The client may have given up.
        with suppress(OSError):
            self.server.proxy.behaviour(self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def ask_server(self) -> tuple[int, Mapping[str, str], bytes]:
        """What the server itself says: status, headers and body."""
        connection = HTTPConnection("127.0.0.1", self.server.proxy.server_port, timeout=_PATIENCE_S)
        try:
            connection.request(self.command, self.path, self.request_body, dict(self.headers))
            said = connection.getresponse()
            return said.status, dict(said.headers), said.read()
        finally:
            connection.close()

    def say(self, status: int, headers: Mapping[str, str], body: bytes, *, upto: int) -> None:
        """Answer with so many bytes of a body, whatever its length is said to be."""
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:upto])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Behaviour = Callable[[Exchange], None]


def pass_on(exchange: Exchange) -> None:
    """Be healthy."""
    status, headers, body = exchange.ask_server()
    exchange.say(status, headers, body, upto=len(body))


def hang(exchange: Exchange) -> None:
    """Never answer, until the proxy does something else; then hang up."""
    proxy = exchange.server.proxy
    told = proxy.behaviour
    while proxy.behaviour is told:
        time.sleep(0.05)


def cut_answers(exchange: Exchange) -> None:
    """Do what is asked for, and break off in the middle of the answer."""
    status, headers, body = exchange.ask_server()
    exchange.say(status, headers, body, upto=len(body) // 2)


def lose_answers(exchange: Exchange) -> None:
    """Do what is asked for, and hang up without a word."""
    exchange.ask_server()


def refuse(exchange: Exchange) -> None:
    """Nobody is there: see `FaultyProxy.behave`, which stops to listen."""


def answer_with(status: int, headers: Mapping[str, str] = MappingProxyType({})) -> Behaviour:
    """Always say this status, and ask the server nothing."""

    def answer(exchange: Exchange) -> None:
        exchange.say(status, headers, b"no", upto=2)

    return answer


def be_slow(seconds: float) -> Behaviour:
    """Take so long for each answer."""

    def answer(exchange: Exchange) -> None:
        time.sleep(seconds)
        pass_on(exchange)

    return answer


def only_for(part: str, behaviour: Behaviour) -> Behaviour:
    """Go wrong where the path has this in it, and be healthy elsewhere."""

    def answer(exchange: Exchange) -> None:
        (behaviour if part in exchange.path else pass_on)(exchange)

    return answer


class FaultyProxy:
    """A port of this machine, and what happens to requests there.

    Args:
        server_port: Where the real server listens.
    """

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.port = free_port()
        self.behaviour: Behaviour = refuse
        self._listener: _Listener | None = None

    def behave(self, behaviour: Behaviour) -> None:
        """Do this from now on."""
        self.behaviour = behaviour
        if behaviour is refuse:
            self._stop_to_listen()
        elif self._listener is None:
            self._listener = _Listener(self)

    def _stop_to_listen(self) -> None:
        if self._listener is not None:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener = None


class _Listener(ThreadingHTTPServer):
    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", proxy.port), Exchange)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        # A client that hung up first is nobody's fault.
        with suppress(OSError):
            super().shutdown_request(request)


@contextmanager
def faulty_proxy(server_port: int) -> Iterator[FaultyProxy]:
    """A healthy one, to begin with."""
    proxy = FaultyProxy(server_port)
    proxy.behave(pass_on)
    try:
        yield proxy
    finally:
        proxy.behave(refuse)
