"""One visitor's way through a pack: which post is due, whether what comes is that one, and what came of it.

A nonce is good for one post, and only for the step that the server asked for with it. A post with another nonce changes nothing; one that
is due and cannot be true ends the visit, and the visitor begins anew.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Iterator

import msgspec

from edgepack.errors import EdgepackError, InputError
from edgepack.pack.manifest import Measurement
from edgepack.serve import judging
from edgepack.serve.judging import Visitor
from edgepack.serve.messages import Answers, Next, Reply, Times
from edgepack.serve.subjects import Served, Subject

_NONCE_BYTES = 16


class RefusedError(InputError):
    """A post that is not the one that was asked for, or that cannot be true."""


class Visit:
    """The steps of one browser or app, in order.

    Attributes:
        visitor: what it said of itself. due: the step that is asked for. failures: what missed its floor there, or did not run.
    """

    def __init__(self, held: Served, visitor: Visitor) -> None:
        self.visitor, self.failures = visitor, list[str]()
        self._held, self._answered = held, dict[int, judging.Answered]()
        self._steps = self._plan()
        self.due, self._asked = next(self._steps), time.monotonic()

    @property
    def is_done(self) -> bool:
        """Whether nothing more is asked for."""
        return self.due.kind == "done"

    def subject_due(self) -> Subject | None:
        """Whose answers are due; None where none are."""
        return self._held.subjects[self.due.subjects[0]] if self.due.kind == "answers" else None

    def answer(self, post: Answers) -> Reply:
        """Take one artifact's answers to the golden inputs.

        Raises:
            EdgepackError: it is not what is due, or not what the artifact can give.
        """
        self._redeem("answers", post.nonce)
        subject = self._held.subjects[self.due.subjects[0]]
        if post.error:
            return self._failed(subject, post.error)
        try:
            found = judging.answered(subject, post, self._held, self.visitor)
        except EdgepackError:
            self._end()
            raise
        self._answered[subject.id] = found
        self.failures += found.failures
        self._on()
        return judging.answers_reply(found, self.due)

    def take_times(self, post: Times) -> tuple[Reply, list[Measurement]]:
        """Take an interleaved run: the reply, and what the pack is to keep.

        Raises:
            EdgepackError: it is not what is due, or no such run can have been.
        """
        self._redeem("times", post.nonce)
        subjects = [self._held.subjects[index] for index in self.due.subjects]
        if post.error:
            return self._failed(subjects[0], post.error), []
        answered = [self._answered[subject.id] for subject in subjects]
        try:
            latencies = judging.timed(answered, post, self._held.profile, self.visitor, time.monotonic() - self._asked)
        except EdgepackError:
            self._end()
            raise
        self._on()
        measured = [judging.measurement(each, latencies[each.subject.label]) for each in answered]
        return judging.times_reply(measured, answered, post, self.due), measured

    def untimed(self) -> list[Measurement]:
        """Of a visit that is over: what answered wrongly, which is kept without a time."""
        return [judging.measurement(each, None) for each in self._answered.values() if each.failures] if self.is_done else []

    def _plan(self) -> Iterator[Next]:
        """Answers of each artifact of a group, then the times of those that were right."""
        for group in self._held.groups:
            for subject in group:
                yield _step("answers", subject.id)
            passed = [subject.id for subject in group if subject.id in self._answered and not self._answered[subject.id].failures]
            if passed:
                yield _step("times", *passed)
        yield _step("done")

    def _redeem(self, kind: str, nonce: str) -> None:
        if self.due.kind != kind or not hmac.compare_digest(self.due.nonce.encode(), nonce.encode()):
            raise RefusedError("this is not the post that was asked for: it is forged, or was sent twice", "reload the page")

    def _failed(self, subject: Subject, words: str) -> Reply:
        self.failures.append(f"{subject.name}: does not run there: {words}")
        self._on()
        return Reply(self.due, failures=(f"it does not run here: {words}",))

    def _on(self) -> None:
        self.due, self._asked = next(self._steps), time.monotonic()

    def _end(self) -> None:
        self.due = _step("done")


def _step(kind: str, *subjects: int) -> Next:
    return msgspec.convert({"kind": kind, "nonce": secrets.token_urlsafe(_NONCE_BYTES), "subjects": subjects}, Next)
