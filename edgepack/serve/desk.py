"""What is behind every address: a file that is what it should be, or a post that is judged and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import msgspec

from edgepack.data import data_folder
from edgepack.errors import InputError
from edgepack.pack.files import PackError
from edgepack.pack.manifest import Measurement, Truth
from edgepack.serve import subjects
from edgepack.serve.entrance import Guest
from edgepack.serve.judging import Visitor, truth_of, words_of
from edgepack.serve.messages import Answers, App, Reply, Times, Visit
from edgepack.serve.runtimes import Runtimes
from edgepack.serve.shelf import Shelf
from edgepack.serve.subjects import Served, served_to
from edgepack.serve.visit import Visit as Way

_PAGE = ("index.html", "page.css", "icon.svg")
# What a visitor says of itself has at most a few thousand characters.
_MOST_WORDS = 2**14
# 60 seconds of two artifacts at 250 us a sample, two numbers of 11 characters each: 10 MB; ten minutes of the same: 105 MB.
_MOST_TIMES = 2**27
# base64 makes four bytes of three.
_BASE64 = 4 / 3


class Began(msgspec.Struct, frozen=True):
    """To a visitor that wants to measure: the first step, and what the pack will say of it."""

    device: dict[str, str]
    truth: Truth
    reply: Reply


class Desk:
    """Reads and judges for one pack.

    Args:
        keep: puts measurements into the pack, and says how many. tell: hears of each visitor what it measured. ended: hears when one has
            gone through all, with what failed there.
    """

    def __init__(
        self,
        held: Served,
        runtimes: Runtimes,
        keep: Callable[[Sequence[Measurement]], int],
        tell: Callable[[Visitor, Sequence[Measurement]], None] = lambda *_: None,
        ended: Callable[[Sequence[str]], None] = lambda *_: None,
    ) -> None:
        self._held, self._runtimes, self._keep, self._tell, self._ended = held, runtimes, keep, tell, ended
        self._shelf = Shelf(held)
        self._page = _page_files()

    def read(self, path: str, guest: Guest) -> tuple[bytes, str]:
        """What lies at an address, and its type; an app gets other artifacts than a page.

        Raises:
            KeyError: nothing. EdgepackError: it is not what was verified, and is not given out.
        """
        room, _, rest = path.removeprefix("/").partition("/")
        shelf = guest.shelf or self._shelf
        if room == "runtimes":
            return self._runtimes.read(rest), type_of(rest)
        if room == "artifacts":
            return shelf.artifact(rest), BINARY
        if room == "inputs":
            return shelf.inputs(rest), BINARY
        if path == "/plan.json":
            return shelf.plan, type_of(path)
        name = path.removeprefix("/") or "index.html"
        return self._page[name], type_of(name)

    def most_bytes(self, path: str, guest: Guest) -> int:
        """How long a post may be; KeyError where none is taken."""
        subject = guest.visit.subject_due() if guest.visit is not None else None
        answers = 0 if subject is None else int(subjects.answer_bytes(subject, self._held.pack.reference) * _BASE64)
        return {"/visits": _MOST_WORDS, "/answers": _MOST_WORDS + answers, "/times": _MOST_TIMES}[path]

    def post(self, path: str, body: bytes, guest: Guest) -> Began | Reply:
        """Judge a post, and keep what it measured.

        Raises:
            KeyError: none is taken there. MsgspecError, EdgepackError: it is refused.
        """
        if path == "/visits":
            return self._begin(msgspec.json.decode(body, type=Visit), guest)
        if guest.visit is None:
            raise InputError("no visit has begun", "reload the page, or start the app again")
        return self._judge(path, body, guest.visit)

    def _begin(self, said: Visit, guest: Guest) -> Began:
        """A visit from its start; one that this guest had before is over."""
        guest.visit, guest.shelf = None, Shelf(served_to(said.visitor, self._held)) if isinstance(said.visitor, App) else None
        held = guest.shelf.held if guest.shelf else self._held
        if not held.subjects:
            raise PackError(f"nothing of this pack runs in a browser ({held.left_out[0]})", "measure it with the app")
        guest.visit = Way(held, said.visitor)
        truth = truth_of(said.visitor, held.pack.target(held.subjects[0].artifact))
        return Began(words_of(said.visitor, said.threads), truth, Reply(guest.visit.due))

    def _judge(self, path: str, body: bytes, visit: Way) -> Reply:
        measured: list[Measurement] = []
        if path == "/answers":
            reply = visit.answer(msgspec.json.decode(body, type=Answers))
        elif path == "/times":
            reply, measured = visit.take_times(msgspec.json.decode(body, type=Times))
        else:
            raise KeyError(path)
        measured += visit.untimed()
        kept = 0
        if measured:
            kept = self._keep(measured)
            self._tell(visit.visitor, measured)
        if visit.is_done:
            self._ended(tuple(visit.failures))
        return msgspec.structs.replace(reply, kept=kept)


def _page_files() -> dict[str, bytes]:
    """The page's own, read once: they come with this program."""
    folder = data_folder("demo_app") / "web"
    names = [*_PAGE, *(f"js/{path.name}" for path in sorted((folder / "js").glob("*.js")))]
    return {name: (folder / name).read_bytes() for name in names}


TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".json": "application/json",
}
BINARY = "application/octet-stream"


def type_of(name: str) -> str:
    """The media type of a file, by its name: browsers take modules and WebAssembly by no other."""
    return TYPES.get(PurePosixPath(name).suffix, BINARY)
