"""``edgepack serve`` with a real Chromium: a phone-sized page, a made-up camera, both runtimes, and what lands in the pack."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgepack.errors import EdgepackError
from edgepack.pack.files import load_pack
from edgepack.pack.measurements import held
from edgepack.serve.runtimes import installed
from tests.system.program import ROOT, edgepack

HERE = Path(__file__).parent / "browser"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


@pytest.fixture(scope="session")
def playwright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """node_modules with playwright-core; the runtimes of the page are in the cache too."""
    lacking = [name for name in ("node", "npm", "openssl") if shutil.which(name) is None]
    lacking += [] if Path(CHROMIUM).exists() else [CHROMIUM]
    if lacking:
        pytest.skip(f"no {', '.join(lacking)} here: the page needs a browser, and what drives it")
    folder = tmp_path_factory.mktemp("playwright")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    ended = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        pytest.skip(f"npm brings no playwright-core: {ended.stderr[:200]}")
    try:
        installed()
    except EdgepackError as error:
        pytest.skip(str(error))
    return folder / "node_modules"


@pytest.fixture
def pack(digits_pack: Path, tmp_path: Path) -> Path:
    """A digits pack of the test's own."""
    folder = tmp_path / "pack"
    shutil.copytree(digits_pack, folder)
    shutil.rmtree(folder / "measurements", ignore_errors=True)
    return folder


@dataclass
class Program:
    """A running ``edgepack serve``."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]

    def ended(self, number: int | None = None) -> tuple[int, str]:
        """Its exit code and its words, after a signal where one is given."""
        if number is not None:
            self.process.send_signal(number)
        _, words = self.process.communicate(timeout=20)
        return self.process.returncode, words


@contextmanager
def serving(pack: Path, *options: str) -> Iterator[Program]:
    command = [sys.executable, "-c", "from edgepack.cli import main; main()", "serve", str(pack), "--json", "--profile", "smoke", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield Program(process, json.loads(line))
        finally:
            process.kill()


def visit(playwright: Path, address: str, steps: str, folder: Path) -> dict[str, Any]:
    """What a Chromium found there."""
    command = ["node", str(HERE / "visit.mjs"), address, steps, str(folder), str(playwright)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env={**os.environ, "CHROMIUM": CHROMIUM})
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout))


def test_a_phone_checks_and_times_both_runtimes_and_recognises_a_drawn_digit(pack: Path, playwright: Path, tmp_path: Path) -> None:
    with serving(pack, "--once") as program:
        found = visit(playwright, program.ready["address"], "draw7,measure", tmp_path)
        code, words = program.ended()
    assert (code, found["trouble"], found["kept"][:14]) == (0, "", "4 measurements"), words
    assert set(found["drawn"].values()) == {"7"} and {name.split()[1] for name in found["drawn"]} == {"onnx", "tflite"}
    assert {row["mark"] for row in found["rows"].values()} == {"agrees"} and len(found["rows"]) == 4
    measured = held(pack, load_pack(pack))
    assert {each.target for each in measured} == {"web"} and {each.truth for each in measured} == {"simulated"}
    assert {each.device["runtime"].split()[0] for each in measured} == {"onnxruntime-web", "LiteRT.js"}
    assert all(not each.failures and each.latency is not None and each.latency.samples >= 40 for each in measured)
    assert all({"browser", "threads", "timer resolution", "origin"} <= each.device.keys() for each in measured)
    assert "Headless Chrome" in (pack / "report.html").read_text()
    # Nothing but the server itself was asked for, and the page fits the phone.
    assert {host.partition(":")[0] for host in found["requests"]} <= {"127.0.0.1", ""} and found["width"] == 390
    assert not [line for line in found["console"] if "Content Security Policy" in line]


def test_the_demos_last_line_serves_what_it_built_to_a_phone(digits_pack: Path) -> None:
    try:
        installed()
    except EdgepackError as error:
        pytest.skip(str(error))
    last = (digits_pack.parent / "digits-pack.txt").read_text().splitlines()[-1]
    said, _, command = last.partition(": ")
    _, verb, served, *options = shlex.split(command)
    assert (said, verb, Path(served)) == ("on a phone of this network", "serve", digits_pack)
    with serving(Path(served), *options, "--no-save") as program:
        assert program.ready["event"] == "ready" and program.ended(signal.SIGINT)[0] == 0


def test_frames_of_the_camera_go_through_a_photo_student(tmp_path: Path, playwright: Path) -> None:
    scenes = ROOT / "demo_app" / "students" / "digit_scenes" / "student.py"
    options = ("-t", "android", "-s", "fp32", "--latency", "none", "-o", "pack")
    built = edgepack("build", f"{scenes}:student", *options, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    with serving(tmp_path / "pack", "--no-save") as program:
        found = visit(playwright, program.ready["address"], "camera", tmp_path)
        assert program.ended(signal.SIGTERM)[0] == 0
    assert found["seen"] in load_pack(tmp_path / "pack").student.labels and "ms" in found["took"] and "median" in found["took"]


def test_a_corrupted_artifact_is_refused_and_the_others_are_measured(pack: Path, playwright: Path, tmp_path: Path) -> None:
    with serving(pack, "--once") as program:
        record = next(each.file for each in load_pack(pack).artifacts if each.runner == "litert" and each.scheme == "w8a8")
        content = bytearray((pack / record.path).read_bytes())
        content[-100] ^= 0xFF
        (pack / record.path).write_bytes(content)
        found = visit(playwright, program.ready["address"], "measure", tmp_path)
        code, _ = program.ended()
    assert code == 1
    assert found["rows"]["android w8a8"]["mark"] == "refused" and "digest differs" in found["rows"]["android w8a8"]["words"]
    assert record.sha256 not in {each.artifact for each in held(pack, load_pack(pack))} and len(held(pack, load_pack(pack))) == 3


def test_https_allows_threads_and_a_second_browser_cannot_use_the_address(pack: Path, playwright: Path, tmp_path: Path) -> None:
    with serving(pack, "--tls", "--threads", "2", "-s", "fp32") as program:
        address = program.ready["address"]
        assert address.startswith("https://") and program.ready["fingerprint"].count(":") == 31
        found = visit(playwright, address, "measure", tmp_path)
        assert visit(playwright, address, "", tmp_path)["status"] == 403
        assert program.ended(signal.SIGINT)[0] == 0
    assert {row["mark"] for row in found["rows"].values()} == {"agrees"}
    assert (found["forged"], found["replayed"]) == (409, 409), "the page's own last post, with another nonce and as it was"
    assert {each.device["threads"] for each in held(pack, load_pack(pack))} == {"2"} or os.cpu_count() == 1
    assert len(held(pack, load_pack(pack))) == 2


def test_plain_http_on_a_network_runs_on_one_thread_and_says_so(pack: Path, playwright: Path, tmp_path: Path) -> None:
    with serving(pack, "--host", "0.0.0.0", "--no-tls", "--threads", "2", "--once", "-s", "fp32") as program:
        if program.ready["address"].startswith("http://127."):
            pytest.skip("this machine has no address but its own, which browsers call secure")
        assert program.ready["secure"] is False
        found = visit(playwright, program.ready["address"], "measure", tmp_path)
        assert program.ended()[0] == 0
    assert "not secure" in found["origin"] and "one thread" in found["origin"]
    assert {row["mark"] for row in found["rows"].values()} == {"agrees"}
    assert all(each.device["threads"].startswith("1: the origin is not secure") for each in held(pack, load_pack(pack)))
