"""Who may come in: an address with a token that opens once, and a cookie for the browser that opened it."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable

from edgepack.serve.shelf import Shelf
from edgepack.serve.visit import Visit

# 128 bits: nobody guesses one.
_TOKEN_BYTES = 16
# Phones on a desk; the browser that came in first is shown out when one more comes.
_MOST_BROWSERS = 16


class Guest:
    """One browser or app that came in.

    Attributes:
        visit: its way through the pack, once it began. shelf: what an app gets, which is another's than a page does.
        lock: held while a post of it is judged.
    """

    def __init__(self) -> None:
        self.visit: Visit | None = None
        self.shelf: Shelf | None = None
        self.lock = threading.Lock()


class Entrance:
    """Tokens and cookies, for the life of one server."""

    def __init__(self, renewed: Callable[[str], None]) -> None:
        """``renewed`` hears each token that opens next, the first one not."""
        self._renewed, self._guests, self._lock = renewed, OrderedDict[str, Guest](), threading.Lock()
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)

    def open(self, token: str) -> str | None:
        """The cookie of a new guest; None where the token is not the one that opens now. The token is used up."""
        with self._lock:
            if not hmac.compare_digest(token.encode(), self.token.encode()):
                return None
            self.token, cookie = secrets.token_urlsafe(_TOKEN_BYTES), secrets.token_urlsafe(_TOKEN_BYTES)
            self._guests[cookie] = Guest()
            if len(self._guests) > _MOST_BROWSERS:
                self._guests.popitem(last=False)
        self._renewed(self.token)
        return cookie

    def guest(self, cookie: str) -> Guest | None:
        """Who holds a cookie."""
        return self._guests.get(cookie)
