"""Packs of strangers: nothing outside is read, nothing waits, nothing that contradicts itself is believed, nothing reaches the terminal."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgepack.cli.output import artifact_table, escaped, legend
from edgepack.pack.digest import file_record, intact
from edgepack.pack.figures import axis
from edgepack.pack.files import PackError, inside, load_pack
from edgepack.pack.manifest import FileRecord
from edgepack.text import one_plain_line, plain
from tests.pack.test_files import put
from tests.pack.test_report import sample_pack


def written(folder: Path, edit: Any = lambda tree: None) -> Path:
    """A pack of six artifacts whose manifest was edited as data."""
    folder.mkdir(exist_ok=True)
    tree = json.loads(msgspec.json.encode(sample_pack()))
    edit(tree)
    (folder / "pack.json").write_text(json.dumps(tree))
    return folder


def test_the_manifest_that_the_edits_start_from_is_sound(tmp_path: Path) -> None:
    assert load_pack(written(tmp_path / "pack")) == sample_pack()


@pytest.mark.parametrize("target", ["/etc/passwd", "real.onnx", "nowhere", "link.onnx"])
def test_a_link_in_a_pack_is_not_followed(tmp_path: Path, target: str) -> None:
    folder = put(tmp_path / "pack")
    (folder / "real.onnx").write_bytes(b"abc")
    (folder / "link.onnx").symlink_to(target)
    with pytest.raises(PackError):
        inside(folder, "link.onnx")
    with pytest.raises(PackError):
        intact(folder, FileRecord("link.onnx", 3, file_record(folder, folder / "real.onnx").sha256))


def test_a_link_or_a_pipe_inside_a_package_is_not_opened(tmp_path: Path) -> None:
    folder = put(tmp_path / "pack")
    for name, make in {"link": lambda path: path.symlink_to("/etc/passwd"), "pipe": os.mkfifo}.items():
        package = folder / name / "model.mlpackage"
        package.mkdir(parents=True)
        make(package / "weight.bin")
        with pytest.raises(PackError, match="is a link, a pipe or a device"):
            intact(folder, FileRecord(f"{name}/model.mlpackage", 0, ""))


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_a_manifest_that_is_no_file_is_refused_at_once(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "pack.json")
    with pytest.raises(PackError, match="is not a pack"):
        load_pack(tmp_path)


def test_a_manifest_of_gigabytes_or_of_endless_depth_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "pack.json").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(PackError, match="too large"):
        load_pack(tmp_path)
    for content in (b"[" * 10**6, b'{"schema": 1, "a": ' * 10**5):
        (tmp_path / "pack.json").write_bytes(content)
        with pytest.raises(PackError, match="is damaged"):
            load_pack(tmp_path)


def test_an_artifact_of_another_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = put(tmp_path / "pack")
    with (folder / "model.onnx").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PackError, match="it has 1099511627776 bytes, not 3"):
        intact(folder, FileRecord("model.onnx", 3, "0"))


def _artifact(**changes: Any) -> Any:
    return lambda tree: tree["artifacts"][0].update(changes)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda tree: tree["student"].update(inputs=[]), "no input or no output"),
        (lambda tree: tree["student"]["outputs"].append(tree["student"]["outputs"][0]), "two outputs of the student have one name"),
        (lambda tree: tree["student"]["inputs"][0].update(dtype="object"), "is of type 'object'"),
        (lambda tree: tree["student"]["inputs"][0].update(shape=[-1]), "negative size"),
        (lambda tree: tree["student"].update(preprocessing={"height": 2**20, "width": 2**20}), "too many for a student"),
        (_artifact(runner="sh"), "has runner 'sh'"),
        (_artifact(inputs=[]), "they are not the student's"),
        (lambda tree: tree["artifacts"][0]["outputs"][0].update(permutation=[7]), r"permutes axes \[7\]"),
        (lambda tree: tree["artifacts"][0]["outputs"][0].update(dtype="V9"), "is of type 'V9'"),
        (lambda tree: tree["artifacts"][0]["parity"].update(outputs=[]), "compared in no output"),
        (lambda tree: tree["artifacts"][0]["latency"].update(histogram_counts=[1]), "edges for 1 counts"),
        (lambda tree: tree["artifacts"][0]["file"].update(bytes=-1), "has -1 bytes"),
        (lambda tree: tree["artifacts"][0]["accuracy"].update(student=7.0), "no fraction of 1"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, edit: Any, words: str) -> None:
    with pytest.raises(PackError, match=words):
        load_pack(written(tmp_path / "pack", edit))


@given(st.lists(st.floats(), min_size=1), st.booleans())
def test_an_axis_holds_whatever_numbers_a_manifest_gives(values: list[float], from_zero: bool) -> None:
    values = [*values, 1.0]
    scale = axis(values, str, from_zero=from_zero)
    assert scale.high > scale.low and len(scale.ticks) < 20
    assert all(0 <= scale.at(value) <= 100 for value in values if value == value)


_ESCAPES = "\x1b]0;owned\x07\x1b[31m\u202e[bold]x[/][link=file:///etc/passwd]y[/link]\\"


def test_words_of_a_pack_reach_the_terminal_as_they_are_written_and_no_further(tmp_path: Path) -> None:
    def poison(tree: Any) -> None:
        tree["student"]["name"] = _ESCAPES
        for artifact in tree["artifacts"]:
            artifact.update(target=_ESCAPES, no_latency=_ESCAPES, latency=None, failures=[_ESCAPES])

    pack = load_pack(written(tmp_path / "pack", poison))
    screen = io.StringIO()
    console = Console(file=screen, width=400, force_terminal=True, color_system=None)
    console.print(artifact_table(pack))
    console.print(legend(pack))
    shown = screen.getvalue()
    assert "owned" in shown and "[bold]x[/]" in shown
    assert not {"\x07", "\u202e"} & set(shown) and "\x1b]" not in shown and "\x1b[31m" not in shown


@given(st.text())
def test_a_plain_line_obeys_nothing_and_markup_shows_as_text(text: str) -> None:
    line = one_plain_line(text)
    assert all(letter.isprintable() or letter == " " or ord(letter) > 0x2069 or letter.isspace() or ord(letter) > 0x9F for letter in line)
    assert "\n" not in line and "\x1b" not in plain(text)
    screen = io.StringIO()
    Console(file=screen, width=10_000, color_system=None).print(f"[red]{escaped(plain(text))}[/]", soft_wrap=True, emoji=False)
    assert screen.getvalue().rstrip() == plain(text).rstrip()
