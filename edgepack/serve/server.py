"""The HTTP side: which addresses there are, who may ask, and how every answer is fenced in.

Served are the page's own files, the pinned runtimes, and the artifacts of pack.json, each checked by its digest before it is sent.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edgepack.errors import EdgepackError, one_line
from edgepack.serve.desk import TYPES, Desk
from edgepack.serve.entrance import Entrance, Guest

# Nothing but the server itself, no inline script, and compiling WebAssembly. Workers are onnxruntime's and LiteRT's threads.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    # Both together isolate the page, which is what shared memory, and with it threads, and a fine clock need.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_JSON = TYPES[".json"]
# A browser opens six connections; a few browsers.
_MOST_CONNECTIONS = 64
# Of silence, on a connection that is open.
_IDLE_SECONDS = 60.0


class Server(ThreadingHTTPServer):
    """Listens on one address; ``context`` makes it https."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, host: str, port: int, desk: Desk, entrance: Entrance, context: ssl.SSLContext | None = None) -> None:
        self.desk, self.entrance, self.is_https = desk, entrance, context is not None
        self._context, self._room = context, threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__((host, port), _Handler)

    @property
    def cookie_name(self) -> str:
        """Browsers keep one jar a host, whatever the port."""
        return f"edgepack_{self.server_address[1]}"

    def get_request(self) -> tuple[Any, Any]:
        """Accepts; the handshake is left to the connection's own thread, so that a slow one holds up nobody."""
        connection, address = super().get_request()
        if self._context is not None:
            connection.settimeout(_IDLE_SECONDS)
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, while there is room."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Makes room again at the end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away, or does not trust the certificate, is no failure of ours."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "edgepack"
    sys_version = ""
    timeout = _IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: addresses hold tokens."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if not self._is_for_us():
            self._refuse(421, "this server has another name")
        elif path.startswith("/open/"):
            self._open(path.removeprefix("/open/"))
        elif (guest := self._guest()) is None:
            self._refuse(403, "open the address that edgepack serve shows: it works once, for one browser or app")
        else:
            self._answered(lambda: self._sent(*self.server.desk.read(path, guest)))

    def do_POST(self) -> None:
        path, guest = urlsplit(self.path).path, self._guest()
        # Whoever is refused may still be sending.
        self.close_connection = True
        if not self._is_for_us() or guest is None:
            self._refuse(403, "open the address that edgepack serve shows: it works once, for one browser or app")
        elif self.headers.get("Origin") != self._origin() or self.headers.get_content_type() != _JSON:
            self._refuse(403, "posts come from the page itself, as JSON")
        else:
            self._answered(partial(self._post, path, guest))

    def _post(self, path: str, guest: Guest) -> None:
        with guest.lock:
            most = self.server.desk.most_bytes(path, guest)
            length = self.headers.get("Content-Length", "")
            if not length.isascii() or not length.isdigit() or len(length) > _DIGITS or int(length) > most:
                self._refuse(413, f"a post here has at most {most} bytes, and says how many")
                return
            body = self.rfile.read(int(length))
            reply = self.server.desk.post(path, body, guest)
        self.close_connection = False
        self._sent(msgspec.json.encode(reply), _JSON)

    def _open(self, token: str) -> None:
        """A redirect to the page, which takes the token out of the address; a browser that has come in may open it again."""
        cookie = self.server.entrance.open(token)
        if cookie is None and self._guest() is None:
            self._refuse(403, "this address is used up: open the newest one that edgepack serve shows")
            return
        headers = {"Location": "/"}
        if cookie is not None:
            secure = "; Secure" if self.server.is_https else ""
            headers["Set-Cookie"] = f"{self.server.cookie_name}={cookie}; Path=/; HttpOnly; SameSite=Lax{secure}"
        self._sent(b"", TYPES[".html"], 303, headers)

    def _answered(self, answer: Callable[[], None]) -> None:
        """Every failure becomes a status and one line."""
        try:
            answer()
        except KeyError:
            self._refuse(404, "there is no such thing here")
        except EdgepackError as error:
            self._refuse(409, f"{error.cause} -> {error.hint}")
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._refuse(400, f"this is no such post ({str(error)[:200]})")
        except OSError:
            # The browser went away.
            raise
        except Exception as error:
            self._refuse(500, f"edgepack failed: {one_line(error)}")

    def _guest(self) -> Guest | None:
        try:
            held = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie_name)
        except CookieError:
            return None
        return None if held is None else self.server.entrance.guest(held.value)

    def _is_for_us(self) -> bool:
        """By address or as localhost: a name that somebody else can turn to this machine (DNS rebinding) is none of ours."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        try:
            return host == "localhost" or bool(ipaddress.ip_address(host))
        except ValueError:
            return False

    def _origin(self) -> str:
        return f"{'https' if self.server.is_https else 'http'}://{self.headers.get('Host', '')}"

    def _refuse(self, status: int, words: str) -> None:
        self.close_connection = True
        self._sent(msgspec.json.encode({"refused": words}), _JSON, status)
        self._hear_out()

    def _hear_out(self) -> None:
        """Close one direction first: to a browser that is still sending, a closed connection is a failed network (RFC 9112, 9.6)."""
        with suppress(OSError):
            self.wfile.flush()
            self.connection.settimeout(_LINGER_SECONDS)
            self.connection.shutdown(socket.SHUT_WR)
            until = time.monotonic() + _LINGER_SECONDS
            while time.monotonic() < until and self.connection.recv(_CHUNK):
                pass

    def _sent(self, content: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


# How long a refused browser may go on sending; a post of 10 MB takes a second of a slow network.
_LINGER_SECONDS, _CHUNK = 5.0, 2**16
# A number of bytes with more digits is nobody's.
_DIGITS = 12
