"""What a student of Python is: everything that can change what it answers changes it, and nothing else does. Never stale."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgepack.student.identity import identified

# A student that keeps what it is made of in as many places as Python has. Its clamps are far above what it answers: what they are set to
# shows in no answer, and all the same in every artifact.
NET = """
import json, os
from functools import partial
from pathlib import Path

import torch
from edgepack import Student

import helper
import settings

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text())
FAR = float(os.environ.get("FAR_GLOBAL", "90"))
UNUSED = os.getpid()


def closing(limit):
    return lambda x: x.clamp(max=limit)


class Net(torch.nn.Module):
    far = float(os.environ.get("FAR_CLASS", "91"))

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 3)
        self.register_buffer("mask", torch.ones(3), persistent=False)
        self.scale = 0.5
        self.sizes = [torch.full((3,), 1.0)]
        self.first = closing(float(os.environ.get("FAR_CLOSURE", "92")))
        self.second = partial(torch.clamp, max=float(os.environ.get("FAR_PARTIAL", "93")))

    def forward(self, x):
        from late import later

        y = helper.shifted(self.layer(x) * self.mask * self.scale) * CONFIG["gain"]
        y = self.second(self.first(y)).clamp(max=self.far).clamp(max=FAR).clamp(max=settings.FAR).clamp(max=above())
        return later(y) * self.sizes[0]


def above(limit=float(os.environ.get("FAR_DEFAULT", "94"))):
    return limit


def student():
    return Student(Net(), (torch.linspace(-1, 1, 4)[None],), ["x"], ["y"], files=["declared.bin"])
"""
FILES = {
    "net.py": NET,
    "helper.py": "def shifted(x):\n    return x + 0.25\n",
    "late.py": "from pathlib import Path\n\ndef later(y):\n    return y + float((Path(__file__).parent / 'late.txt').read_text())\n",
    "late.txt": "0.0",
    "settings.py": "import os\nFAR = float(os.environ.get('FAR_SETTINGS', '95'))\n",
    "config.json": '{"gain": 2.0, "unused": 1}',
    "declared.bin": "0123",
    "unrelated.txt": "words",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The student's folder."""
    for name, content in FILES.items():
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_text(content)
    return tmp_path / "a"


def parts(folder: Path, **environment: str) -> dict[str, str]:
    """The parts of its identity, made in a process of its own: a fork, which has torch already and takes a tenth of a second."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(environment)
            torch.seed()
            held = identified(f"{folder / 'net.py'}:student")[1].parts
        except Exception as error:
            traceback.print_exc()
            held = {"refused": f"{error}"}
        with os.fdopen(write, "w") as pipe:
            json.dump(held, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        held = json.load(pipe)
    os.waitpid(child, 0)
    assert "refused" not in held, held
    return dict(held)


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = (folder / name).read_text()
        assert content.count(old) == 1
        times = (folder / name).stat()
        (folder / name).write_text(content.replace(old, new))
        os.utime(folder / name, ns=(times.st_atime_ns, times.st_mtime_ns))
        # A cache of the old source is taken for the new one where its time and size are the same; a real edit changes either.
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)

    return edit


CHANGES = {
    "one weight": edited("net.py", "Linear(4, 3)", "Linear(4, 3); self.layer.weight.data[1, 2] += 1e-6"),
    "a buffer that is not saved": edited("net.py", "torch.ones(3), p", "torch.ones(3) * 1.0000001, p"),
    "a plain setting": edited("net.py", "self.scale = 0.5", "self.scale = 0.6"),
    "a tensor in a list": edited("net.py", "torch.full((3,), 1.0)", "torch.full((3,), 1.5)"),
    "a helper module": edited("helper.py", "0.25", "0.26"),
    "a comment of a helper module": edited("helper.py", "0.25", "0.25  # why"),
    "a module imported late": edited("late.py", "y + float", "y - float"),
    "a file read late": edited("late.txt", "0.0", "1.0"),
    "a file the factory reads": edited("config.json", "2.0", "3.0"),
    "a part of it that is not used": edited("config.json", '"unused": 1', '"unused": 2'),
    "a declared file": edited("declared.bin", "0123", "0124"),
    "a class attribute": edited("net.py", '"91"', '"81"'),
    "the examples": edited("net.py", "linspace(-1, 1", "linspace(-1, 2"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_what_it_is_made_of_is_another_student(what: str, folder: Path) -> None:
    before = parts(folder)
    CHANGES[what](folder)
    assert parts(folder) != before


@pytest.mark.parametrize("where", ["GLOBAL", "CLASS", "CLOSURE", "PARTIAL", "DEFAULT", "SETTINGS"])
def test_a_value_that_shows_in_no_source_and_in_no_answer_is_part_of_it_wherever_it_is_kept(where: str, folder: Path) -> None:
    """A constant that the environment sets and that the examples do not reach: the captured model holds it."""
    before, after = parts(folder), parts(folder, **{f"FAR_{where}": "50"})
    assert {name for name in before if name.startswith("answer") and before[name] != after[name]} == set()
    assert before != after


def test_place_times_unrelated_files_and_caches_are_no_part_of_it(folder: Path) -> None:
    before = parts(folder)
    assert parts(folder) == before, "compiled sources lie beside it now"
    moved = folder.parent / "deep" / "b"
    shutil.copytree(folder, moved, ignore=shutil.ignore_patterns("__pycache__"))
    for path in moved.iterdir():
        os.utime(path, (1, 1))
    (moved / "unrelated.txt").write_text("others")
    (moved / "more.py").write_text("raise SystemExit")
    assert parts(moved) == before
    assert str(folder.parent) not in json.dumps(before)
    shutil.rmtree(folder)
    assert parts(moved) == before


def test_every_part_has_a_name_that_says_what_it_is(folder: Path) -> None:
    held = parts(folder)
    assert {"weight layer.weight", "weight mask", "source net.py", "source helper.py", "source late.py", "source settings.py"} <= set(held)
    assert {"file config.json", "file declared.bin", "file late.txt", "answer y", "example x", "module layer"} <= set(held)
    assert not [name for name in held if "UNUSED" in name or "unrelated" in name]


def test_hash_seed_language_and_time_zone_are_no_part_of_it(folder: Path) -> None:
    code = "import sys; from edgepack.student.identity import identified; print(sorted(identified(sys.argv[1])[1].parts.items()))"
    said = []
    for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"}
        command = [sys.executable, "-P", "-c", code, f"{folder / 'net.py'}:student"]
        said.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=folder.parent).stdout)
    assert said[0] == said[1] and "answer y" in said[0]


def write(folder: Path, body: str, head: str = "") -> Path:
    """A student whose forward has this body."""
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(
        f"""
import torch
from pathlib import Path
from edgepack import Student
{head}
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        {body}
    def forward(self, x):
        return x * self.k
def student():
    return Student(Net(), (torch.ones(1, 2),), ["x"], ["y"])
"""
    )
    return folder


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("self.k = float(Path(__file__).with_name('data').read_text().split()[-1])", "data"),
        ("held = {}; exec(Path(__file__).with_name('more.py').read_text(), held); self.k = held['k']", "more.py"),
        ("import runpy; self.k = runpy.run_path(str(Path(__file__).with_name('more.py')))['k']", "more.py"),
        ("import numpy; self.k = float(numpy.fromfile(str(Path(__file__).with_name('data')), numpy.uint8)[0]) * 0 + 1", "data"),
        ("import numpy; self.k = float(numpy.memmap(Path(__file__).with_name('data'), numpy.uint8, 'r+')[0]) * 0 + 1", "data"),
        ("import os; f = os.open(Path(__file__).with_name('data'), os.O_RDONLY); self.k = len(os.read(f, 1))", "data"),
    ],
    ids=["text", "a source as text", "a source as a program", "numpy", "memory map", "descriptor"],
)
def test_a_file_counts_however_it_is_read(body: str, name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", body)
    (folder / name).write_text("k = 1.0")
    before = parts(folder)
    (folder / name).write_text("k =  1.0")
    assert before != parts(folder)


def test_a_student_that_lies_among_installed_packages_is_told_by_its_sources_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepack.student import identity

    really = identity._installed()
    monkeypatch.setattr(identity, "_installed", lambda: (*really, f"{folder.parent}{os.sep}"))
    before = parts(folder)
    assert {"source helper.py", "file config.json"} <= set(before)
    CHANGES["a comment of a helper module"](folder)
    assert parts(folder) != before


@pytest.mark.parametrize(
    "value",
    [
        "torch.ones(3).to_sparse()",
        "torch.eye(3).to_sparse_csr()",
        "torch.ones(2, dtype=torch.cfloat).conj()",
        "torch.tensor(1.5).bfloat16()",
    ],
    ids=["sparse", "csr", "conjugate", "bfloat16"],
)
def test_tensors_of_every_kind_are_told_apart(value: str, tmp_path: Path) -> None:
    one = parts(write(tmp_path / "a", f"self.k = 1.0; self.t = {value}"))
    two = parts(write(tmp_path / "b", f"self.k = 1.0; self.t = {value} * 2"))
    assert one["module forward"] != two["module forward"]


def test_a_student_drawn_at_random_without_a_seed_is_refused_with_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "self.k = torch.nn.Parameter(torch.rand(2))")
    one, two = parts(folder), parts(folder)
    assert {name for name in one if one[name] != two[name]} == {"weight k", "answer y"}
    from edgepack import api

    with pytest.raises(
        Exception, match=r"the student is another one each time it is made: its (weight k|answer y) differs -> next: "
    ) as caught:
        api.build(f"{folder / 'net.py'}:student", tmp_path / "pack", targets=["raspberry-pi-5"], latency="none", store=tmp_path / "store")
    assert "\n" not in str(caught.value) and not (tmp_path / "pack").exists()


def test_a_declared_file_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "declared.bin").unlink()
    with pytest.raises(AssertionError, match=r"file 'declared.bin' of Student\(files=...\) cannot be read"):
        parts(folder)
