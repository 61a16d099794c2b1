"""The page of ``edgepack serve`` played in Python: what a browser would ask for and post."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgepack.pack.reported import keep
from edgepack.serve.desk import Desk
from edgepack.serve.entrance import Entrance
from edgepack.serve.runtimes import Runtimes
from edgepack.serve.server import Server
from edgepack.serve.subjects import Served, Subject

PHONE = "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Mobile Safari/537.36"


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)


@dataclass
class Page:
    """A browser that came in."""

    port: int
    cookie: str = ""
    host: str = ""

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own; a header of None is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        own = {"Host": self.host or f"127.0.0.1:{self.port}", "Cookie": self.cookie}
        connection.request(method, path, body, {**own, **{name.replace("_", "-"): value for name, value in headers.items()}})
        answer = connection.getresponse()
        result = Answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return result

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, path: str, message: Any, **headers: str) -> Answer:
        """As the page posts; ``headers`` in place of its own."""
        own = {"Content_Type": "application/json", "Origin": f"http://127.0.0.1:{self.port}"}
        return self.ask("POST", path, json.dumps(message).encode(), **{**own, **headers})

    def begin(self, **facts: Any) -> dict[str, Any]:
        """Introduce the browser; the first step."""
        browser = {"user_agent": PHONE, "secure": True, "isolated": True, "tick_ns": 5000, **facts}
        return dict(self.post("/visits", {"browser": browser, "threads": 1}).data["reply"]["next"])

    def go_through(self, held: Served, **facts: Any) -> list[Answer]:
        """Everything the server asks for, answered as a perfect device would."""
        due, answers = self.begin(**facts), []
        while due["kind"] != "done":
            subjects = [held.subjects[index] for index in due["subjects"]]
            message = right_answers(held, subjects[0], due) if due["kind"] == "answers" else credible_times(held, subjects, due)
            answers.append(self.post(f"/{due['kind']}", message))
            due = answers[-1].data["next"]
        return answers


def right_answers(held: Served, subject: Subject, due: dict[str, Any]) -> dict[str, Any]:
    """What an artifact without any error would give."""
    outputs = []
    for port in subject.artifact.outputs:
        reference = held.pack.reference[port.hub_name]
        array = np.ascontiguousarray(reference.transpose(0, *(axis + 1 for axis in port.permutation)) if port.permutation else reference)
        data = base64.b64encode(array.astype(port.dtype).tobytes()).decode()
        outputs.append({"name": port.name, "dtype": port.dtype, "shape": array.shape, "data": data})
    return {"nonce": due["nonce"], "threads": 1, "outputs": outputs}


def credible_times(held: Served, subjects: Sequence[Subject], due: dict[str, Any], nanoseconds: float = 300.0) -> dict[str, Any]:
    """A run of so short queries that it has taken place since it was asked for, on a clock of 1 ns."""
    rng = np.random.default_rng(7)
    series = []
    for subject in subjects:
        taken = np.rint(nanoseconds + rng.uniform(0, 10, held.profile.pairs))
        starts = np.arange(taken.size) * 4 * nanoseconds
        encoded = {"taken": _numbers(taken), "starts": _numbers(starts)}
        series.append({"subject": subject.id, "warm_up_ns": [nanoseconds] * 20, "inner": 1, **encoded})
    return {"nonce": due["nonce"], "threads": 1, "tick_ns": 1, "series": series, "hidden": False}


def _numbers(values: Any) -> str:
    return base64.b64encode(np.asarray(values, "<f8").tobytes()).decode()


@dataclass
class Counter:
    """A running server and what it told."""

    server: Server
    entrance: Entrance
    renewed: list[str] = field(default_factory=list)
    ended: list[Sequence[str]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def opened(self) -> Page:
        """A browser that opens the address of now."""
        answer = Page(self.port).get(f"/open/{self.entrance.token}")
        assert answer.status == 303, answer
        return Page(self.port, answer.headers["Set-Cookie"].partition(";")[0])


@contextmanager
def at_counter(pack: Path, held: Served) -> Iterator[Counter]:
    """A server whose runtimes are none: no npm is needed."""
    renewed, ended = list[str](), list[Sequence[str]]()

    def keep_it(found: Sequence[Any]) -> int:
        keep(pack, found)
        return len(found)

    desk = Desk(held, Runtimes(pack, {}), keep_it, ended=ended.append)
    entrance = Entrance(renewed.append)
    with Server("127.0.0.1", 0, desk, entrance) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield Counter(server, entrance, renewed, ended)
        server.shutdown()
