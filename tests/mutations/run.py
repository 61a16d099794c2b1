"""Mutated models, packs and manifests into edgepack's verbs: ``python -m tests.mutations.run --count 5000 --seed 1 --jobs 2``.

Each case is opened by the functions that the command line and its workers run, in a fork of a parent that has the libraries imported:
under the command's own memory limit, an alarm, and an audit hook that hears every file written and every process started. A few go
through the real command line as well. Exit code 1 when a case ended otherwise than well or in one readable line: ``--only INDEX`` with
the same seed makes it again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from tests.mutations import operate
from tests.mutations.cases import KINDS, LIBRARIES, Kind, make_case
from tests.mutations.guard import WALL, Watch

# The bar: processor seconds beyond imports, and bytes of memory.
MOST_SECONDS, MOST_BYTES = 5.0, 10**9
# One case in so many also goes through the real command line, which takes seconds for its imports.
_COMMAND_LINE_SHARE = 50
# For the whole command, imports of every library and two processors shared with others.
_COMMAND_SECONDS = 90


@dataclass(frozen=True)
class Result:
    """How one case ended. ``bad`` says why it fails the bar, "" where it does not."""

    index: int
    kind: str
    outcome: str
    seconds: float
    bytes: int
    message: str
    bad: str = ""


def kind_of(seed: int, index: int) -> Kind:
    """The kind of a case."""
    return Random(f"{seed}:{index}:kind").choices(KINDS, [kind.weight for kind in KINDS])[0]


def run_case(seeds: Path, seed: int, index: int) -> Result:
    """One case in a fork of this process."""
    return run_kind(kind_of(seed, index), seeds, seed, index)


def run_kind(kind: Kind, seeds: Path, seed: int, index: int) -> Result:
    """A case of a given kind."""
    with tempfile.TemporaryDirectory(prefix="case.", ignore_cleanup_errors=True) as folder:
        case = Path(folder)
        (case / "out").mkdir()
        subject = make_case(kind, seeds, case, Random(f"{seed}:{index}"))
        read, write = os.pipe()
        operate.PHASE[:] = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(read)
            _child(kind, subject, case, write)
        os.close(write)
        os.close(operate.PHASE[1])
        with os.fdopen(read, "rb") as pipe, os.fdopen(operate.PHASE[0], "rb") as phase:
            said, phases = pipe.read(), phase.read()
        _, status, used = os.wait4(child, 0)
    return _judged(index, kind, said, phases.endswith(b"r"), status, used)


def _child(kind: Kind, subject: Path, case: Path, report: int) -> None:
    """Never returns."""
    from edgepack.inspection.limits import default_bytes

    try:
        signal.alarm(WALL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.setsid()
        os.chdir(case / "out")
        tempfile.tempdir = str(case / "out")
        os.environ["TMPDIR"] = tempfile.tempdir
        watch = Watch(case / "out")
        watch.install(default_bytes(subject))
        ended = _operate(kind, subject, case / "out")
        os.write(report, json.dumps({**ended, "found": watch.found[:3]}).encode())
    finally:
        os._exit(0)


def _operate(kind: Kind, subject: Path, out: Path) -> dict[str, str]:
    from edgepack.errors import EdgepackError, is_out_of_memory, one_line
    from edgepack.text import one_plain_line

    try:
        kind.operate(subject, out)
        return {"outcome": "ok", "message": ""}
    except EdgepackError as error:
        return {"outcome": f"refused ({error.exit_code})", "message": one_plain_line(str(error))}
    except MemoryError:
        return {"outcome": "out of memory" if kind.in_worker else "crash", "message": "MemoryError"}
    except BaseException as error:
        if kind.in_worker and is_out_of_memory(one_line(error)):
            return {"outcome": "out of memory", "message": one_line(error)}
        return {"outcome": "crash", "message": "".join(traceback.format_exception(error, limit=-4))[-1500:]}


def _judged(index: int, kind: Kind, said: bytes, in_runtime: bool, status: int, used: resource.struct_rusage) -> Result:
    held = json.loads(said) if said else {"outcome": "", "message": "", "found": []}
    seconds, size = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
    outcome, bad = held["outcome"], ""
    if not said:
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "no word"
        outcome = f"runtime ended by {name}" if in_runtime and name != "SIGALRM" else f"ended by {name}"
        bad = "" if in_runtime and name != "SIGALRM" else outcome
    if outcome == "crash":
        bad = "crash"
    elif held["found"]:
        bad = "; ".join(held["found"])
    elif seconds > MOST_SECONDS:
        bad = f"{seconds:.1f} s of processor time"
    elif size > MOST_BYTES:
        bad = f"{size / 1e6:.0f} MB"
    return Result(index, kind.name, outcome, seconds, size, held["message"], bad)


def run_command(seeds: Path, seed: int, index: int) -> Result:
    """The same case through the real command line: ends in time, in a documented exit code, in one line of failure at most."""
    kind = kind_of(seed, index)
    with tempfile.TemporaryDirectory(prefix="case.", ignore_cleanup_errors=True) as folder:
        case = Path(folder)
        (case / "out").mkdir()
        subject = make_case(kind, seeds, case, Random(f"{seed}:{index}"))
        found = [_command(kind, arguments, case) for arguments in _commands(kind, subject, case)]
    bad = "; ".join(filter(None, (each[2] for each in found)))
    return Result(index, f"command {kind.name}", f"exit codes {[each[0] for each in found]}", 0.0, 0, found[0][1], bad)


def _commands(kind: Kind, subject: Path, case: Path) -> Iterator[list[str]]:
    yield [word.format(subject=subject, case=case, out=case / "out") for word in kind.command]
    if kind.subject == "pack":
        yield ["inspect", str(subject)]
        if "verify" in verbs():
            yield ["verify", str(subject), "--quick"]


def verbs() -> set[str]:
    """Names of the commands that this edgepack has."""
    from edgepack.cli.app import app

    return {str(command.name) for command in app.registered_commands}


def _command(kind: Kind, arguments: Sequence[str], case: Path) -> tuple[int, str, str]:
    """(exit code, last line of standard error, what is wrong)."""
    started = [sys.executable, "-c", "from edgepack.cli import main; main()", *arguments]
    environment = {**os.environ, "TMPDIR": str(case / "out"), "HOME": str(case / "out"), "COLUMNS": "80"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        ended = subprocess.run(
            started, cwd=case / "out", env=environment, capture_output=True, timeout=_COMMAND_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return -1, "", f"{arguments[0]}: no end after {_COMMAND_SECONDS} s"
    text = (ended.stdout + ended.stderr).decode(errors="replace")
    lines = [line for line in ended.stderr.decode(errors="replace").splitlines() if line.startswith("FAIL ")]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    wrong = [
        f"exit code {ended.returncode}" if ended.returncode not in (0, 1, 2, 3) else "",
        "a traceback" if "Traceback" in text else "",
        f"{len(lines)} lines of failure" if ended.returncode in (2, 3) and len(lines) != 1 else "",
        "an escape sequence" if "\x1b" in text else "",
        f"{used.ru_maxrss * 1024 / 1e6:.0f} MB" if used.ru_maxrss * 1024 > max(MOST_BYTES, before.ru_maxrss * 1024) else "",
    ]
    said = " | ".join(filter(None, wrong))
    return ended.returncode, lines[-1] if lines else "", f"{arguments[0]}: {said} ({text[-600:]})" if said else ""


def _parent(group: str, seeds: Path, seed: int, indices: Sequence[int]) -> list[dict[str, object]]:
    """All cases of a group, in forks of one process."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    for name in (
        "edgepack.inspection.steps",
        "edgepack.student.steps",
        "edgepack.calibration.steps",
        "edgepack.pack.run",
        "edgepack.cli.app",
    ):
        importlib.import_module(name)
    for name in LIBRARIES[group]:
        importlib.import_module(name)
    if group == "torch":
        _warm_up(seeds)
    return [asdict(run_case(seeds, seed, index)) for index in indices]


def _warm_up(seeds: Path) -> None:
    """torch.export imports most of what it needs when it is first used: 5 seconds that are not a case's."""
    from edgepack.student.load import load_student

    with tempfile.TemporaryDirectory() as folder:
        load_student(str(seeds / "student.pt2")).program.capture(Path(folder) / "captured.onnx")


def _one(job: tuple[str, Path, int, list[int]]) -> list[Result]:
    group, seeds, seed, indices = job
    if group == "command":
        return [run_command(seeds, seed, index) for index in indices]
    return [Result(**row) for row in _parent(group, seeds, seed, indices)]  # type: ignore[arg-type]


def run(seeds: Path, seed: int, indices: Sequence[int], jobs: int, commands: int) -> Iterator[Result]:
    """All cases; ``commands`` of them, evenly spread, through the real command line as well. Parents live for a hundred cases each."""
    work: list[tuple[str, Path, int, list[int]]] = []
    for group in LIBRARIES:
        mine = [index for index in indices if kind_of(seed, index).group == group]
        work += [(group, seeds, seed, mine[start : start + 200]) for start in range(0, len(mine), 200)]
    chosen = [indices[place * len(indices) // commands] for place in range(commands)]
    work += [("command", seeds, seed, chosen[start : start + 10]) for start in range(0, len(chosen), 10)]
    # spawn: a parent starts clean; one task a process, so that groups never share libraries.
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        for found in pool.imap_unordered(_one, work):
            yield from found


def summary(found: Sequence[Result]) -> str:
    """Counts by kind and outcome, and the extremes."""
    rows = [
        f"{kind:18} {count:5}  {outcome}" for (kind, outcome), count in sorted(Counter((each.kind, each.outcome) for each in found).items())
    ]
    slow, large = max(found, key=lambda each: each.seconds), max(found, key=lambda each: each.bytes)
    rows.append(f"slowest {slow.seconds:.1f} s (index {slow.index}, {slow.kind})")
    rows.append(f"largest {large.bytes / 1e6:.0f} MB (index {large.index}, {large.kind})")
    return "\n".join(rows)


def main() -> int:
    """Run, report, and fail when a case does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--commands", type=int, default=-1, help="cases for the real command line; default: one in 50")
    parser.add_argument("--only", type=int, action="append", help="run this index alone; repeat")
    parser.add_argument("--seeds", type=Path, help="a folder of seeds to use again, made when it is not there")
    options = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory(prefix="mutations.") as scratch:
        seeds = options.seeds or Path(scratch) / "seeds"
        prepare(seeds)
        indices = options.only or list(range(options.count))
        commands = len(indices) // _COMMAND_LINE_SHARE if options.commands < 0 else min(options.commands, len(indices))
        begun = time.monotonic()
        found = []
        for each in run(seeds, options.seed, indices, options.jobs, commands):
            found.append(each)
            if each.bad or options.only:
                print(f"{'BAD ' if each.bad else ''}seed {options.seed} index {each.index} {each.kind}: {each.bad or each.outcome}")
                print(each.message, flush=True)
    bad = [each for each in found if each.bad]
    print(summary(found))
    print(f"\n{len(found)} cases, {len(bad)} bad, {time.monotonic() - begun:.0f} s")
    return 1 if bad else 0


def prepare(seeds: Path) -> None:
    """The seeds, unless they are there, in a process of its own: it imports everything."""
    if not (seeds / "student.json").is_file():
        code = "import sys; from pathlib import Path; from tests.mutations.seeds import make; make(Path(sys.argv[1]))"
        subprocess.run(
            [sys.executable, "-c", f"if __name__ == '__main__':\n {code}", str(seeds)], check=True, cwd=Path(__file__).parents[2]
        )


if __name__ == "__main__":
    sys.exit(main())
