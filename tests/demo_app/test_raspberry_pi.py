"""The Pi's program says what ``edgepack run`` says, of files and of the newest camera frames, and refuses what was not verified."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from edgepack.backends.artifact import Binding
from edgepack.converter.step import Limits
from edgepack.devices.runner_process import artifact_feed, hub_arrays
from edgepack.pack import run
from edgepack.pack.digest import file_record
from edgepack.pack.files import load_pack
from edgepack.student.spec import ImagePreprocessing, StudentError, open_image
from tests.system.program import DIGITS, ROOT, edgepack

HERE = ROOT / "demo_app" / "raspberry_pi"
PROGRAM, UNIT = HERE / "classify.py", HERE / "edgepack-classify.service"
SAMPLES = DIGITS / "samples"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("classify", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["classify"] = module
    spec.loader.exec_module(module)
    return module


classify = _load()


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """``main`` listens to signals for as long as its process lives, which here is pytest's."""
    held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in held.items():
        signal.signal(number, handler)


@dataclass(frozen=True)
class Said:
    """What the program said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def failure(self) -> str:
        """Its FAIL line, which is all it complained with."""
        assert self.err.startswith("FAIL ") and self.err.count("\n") == 1 and " -> next: " in self.err, self.err
        return self.err

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def images(self) -> dict[str, dict[str, Any]]:
        return {Path(each["input"]).name: each for each in self.events if each["event"] == "image"}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``main`` here."""

    def program(*arguments: str | Path) -> Said:
        capsys.readouterr()
        code = classify.main([str(each) for each in arguments])
        return Said(code, *capsys.readouterr())

    return program


def classify_command(pack: str | Path, folder: str | Path, program: str | Path = PROGRAM) -> list[str]:
    """The arguments of ``python3`` that classify a folder once, as JSON lines."""
    return [str(program), str(pack), "--folder", str(folder), "--json"]


def started(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    held = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=held)


def until(process: subprocess.Popen[str], text: str) -> str:
    """Its output up to the line that holds ``text``."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    pytest.fail(f"{text} was never said: {lines} {process.communicate()[1]}")


@pytest.fixture
def own_pack(digits_pack: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(digits_pack, tmp_path / "own-pack"))


def rewrite(pack: Path, *path: str | int, value: object) -> None:
    """Change one field of pack.json."""
    fields = json.loads((pack / "pack.json").read_text())
    place = fields
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (pack / "pack.json").write_text(json.dumps(fields))


def index_of(pack: Path, runner: str, scheme: str) -> int:
    held = load_pack(pack).artifacts
    return next(index for index, each in enumerate(held) if (each.runner, each.scheme) == (runner, scheme))


# What comes before the model


def photograph(mode: str, size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth colours with noise on them: resizing and rounding have something to do."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    smooth = Image.fromarray(noise).resize((5, 4)).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(smooth, Image.fromarray(noise), 0.3).convert(mode)


PHOTOGRAPHS = [
    ("RGB", (640, 480), "a.jpg"),
    ("L", (31, 57), "b.jpeg"),
    ("CMYK", (64, 64), "c.jpg"),
    ("RGBA", (97, 33), "d.png"),
    ("LA", (20, 300), "e.png"),
    ("P", (50, 41), "f.gif"),
    ("1", (28, 28), "g.bmp"),
    ("RGB", (1, 1), "h.tiff"),
    ("RGB", (133, 77), "i.webp"),
    ("RGB", (224, 224), "j.ppm"),
]
NORMALIZATIONS = [
    {},
    {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    {"mean": (0.498,), "std": (0.502,), "invert": True},
    {"mean": (0.1, 0.2, 0.3), "std": (0.5,), "folded": True, "invert": True},
]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("resize", ["cover", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_input_tensors_are_edgepacks_bit_for_bit(tmp_path: Path, channels: int, resize: str, interpolation: str, layout: str) -> None:
    for seed, (mode, size, name) in enumerate(PHOTOGRAPHS):
        photograph(mode, size, seed).save(tmp_path / name)
        for options in NORMALIZATIONS:
            few = {key: value[:1] if channels == 1 and isinstance(value, tuple) else value for key, value in options.items()}
            ours = ImagePreprocessing(30, 45, channels, resize, interpolation, **few)
            theirs = classify.Preprocessing(**msgspec.structs.asdict(ours))
            expected = ours.load(tmp_path / name, layout)
            for source in (tmp_path / name, (tmp_path / name).read_bytes()):
                given = theirs.sample(classify.open_image(source, theirs.mode), layout)
                assert (given.dtype, given.shape, given.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


@pytest.mark.parametrize("permutation", [(), (0, 2, 3, 1), (0, 3, 1, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_tensors_reach_the_artifact_and_come_back_as_edgepacks_do(dtype: str, permutation: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (1, 3, 5, 7)).astype(np.float32)
    ours, theirs = Binding("x", "image", dtype, (), permutation), classify.Binding("x", "image", dtype, permutation)
    expected, given = artifact_feed({"image": array[None]}, [ours])["x"][0], theirs.to_artifact(array)
    assert (given.dtype, given.shape, given.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    np.testing.assert_array_equal(theirs.to_student(given), hub_arrays({"x": expected[None]}, [ours])["image"][0])


@pytest.mark.parametrize("case", ["cut off", "cut off JPEG", "16 bits", "inflated", "text", "eps"])
def test_images_that_edgepack_refuses_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "image.png"
    if case == "16 bits":
        Image.fromarray(np.full((9, 9), 70_00, np.uint16)).save(path)
    elif case == "inflated":
        Image.new("1", (9000, 9000)).save(path, optimize=True)
    elif case == "eps":
        Image.new("RGB", (9, 9)).save(path, format="EPS")
    else:
        whole = {"cut off": (SAMPLES / "digit_7.png").read_bytes(), "cut off JPEG": FRAMES[4], "text": b"no image as well"}[case]
        path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StudentError):
        open_image(path, "RGB")
    with pytest.raises(classify.ImageError):
        classify.open_image(path, "RGB")


# What comes after it


def test_labels_are_those_of_edgepack_run(digits_pack: Path, said: Any) -> None:
    words = ("run", digits_pack, SAMPLES / "digit_5.png", "-t", "raspberry-pi-5", "--no-time", "--json")
    expected = {each["scheme"]: each["top"] for each in json.loads(edgepack(*words, cwd=ROOT).stdout)["answers"]}
    for scheme, top in expected.items():
        given = said(*classify_command(digits_pack, SAMPLES)[1:], "--scheme", scheme, "--top", "3")
        assert given.code == 0, given.err
        assert given.images()["digit_5.png"]["top"] == top


@pytest.mark.parametrize("scheme", ["fp32", "w8a8"])
def test_every_probability_is_that_of_edgepack(digits_pack: Path, said: Any, scheme: str) -> None:
    pack, images = load_pack(digits_pack), sorted(SAMPLES.glob("*.png"))
    artifact = run.chosen(pack, ["raspberry-pi-5"], [scheme])[0]
    samples = np.concatenate([run.read_input(path, pack.student)["image"] for path in images])
    outputs, _ = run.infer(digits_pack, artifact, {"image": samples}, Limits(60, 2**33))
    given = said(*classify_command(digits_pack, SAMPLES)[1:], "--scheme", scheme, "--top", "10").images()
    for index, path in enumerate(images):
        best = run.best({"logits": outputs["logits"][index]}, pack.student.labels, 10)
        assert [(each["label"], each["probability"]) for each in given[path.name]["top"]] == list(best)


@pytest.mark.parametrize("scores", [[0.1, 0.7, 0.2], [3.0, -2.0, 0.0], [0.0, 0.0, 0.0], [1e4, -1e4, 0.0], [0.5, 0.25, 0.2421875]])
def test_probabilities_are_edgepacks(scores: list[float]) -> None:
    from edgepack.verify.metrics import probabilities

    row = np.asarray(scores, np.float32)
    np.testing.assert_array_equal(classify.probabilities(row), probabilities(row[None])[0])


def small_pack(folder: Path, digits_pack: Path, labels: int, permutation: tuple[int, ...] = ()) -> Path:
    """A pack whose model hands its pixels on: (1, 3, 6, 8) scores, a class for every pixel where there are three labels.

    With a permutation the artifact takes and gives NHWC.
    """
    pack = load_pack(digits_pack)
    shape = [1, 6, 8, 3] if permutation else [1, 3, 6, 8]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ports[:1], ports[1:])
    (folder / "model").mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "model" / "m.onnx")
    spec = msgspec.structs.replace(pack.student.inputs[0], shape=(1, 3, 6, 8), layout="NCHW")
    student = msgspec.structs.replace(
        pack.student,
        inputs=(msgspec.structs.replace(spec, name="image"),),
        outputs=(msgspec.structs.replace(spec, name="logits"),),
        preprocessing=ImagePreprocessing(6, 8),
        labels=tuple("abcdefg")[:labels],
    )
    bindings = [(Binding(name, hub, "float32", tuple(shape), permutation),) for name, hub in (("x", "image"), ("y", "logits"))]
    artifact = msgspec.structs.replace(
        pack.artifacts[index_of(digits_pack, "ort", "fp32")],
        file=file_record(folder.resolve(), folder.resolve() / "model" / "m.onnx"),
        inputs=bindings[0],
        outputs=bindings[1],
    )
    (folder / "pack.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(pack, student=student, artifacts=(artifact,))))
    return folder


@pytest.mark.parametrize("permutation", [(), (0, 2, 3, 1)])
def test_of_a_segmenter_the_shares_are_told_that_edgepack_tells(
    tmp_path: Path, digits_pack: Path, said: Any, permutation: tuple[int, ...]
) -> None:
    folder = small_pack(tmp_path / "pack", digits_pack, 3, permutation)
    (tmp_path / "photos").mkdir()
    photograph("RGB", (40, 30), 7).save(tmp_path / "photos" / "p.png")
    pack = load_pack(folder)
    sample = run.read_input(tmp_path / "photos" / "p.png", pack.student)
    expected = run.areas({"logits": sample["image"][0]}, pack.student, 3)
    given = said(*classify_command(folder, tmp_path / "photos")[1:]).images()["p.png"]
    assert [(each["label"], each["share"]) for each in given["areas"]] == list(expected)
    assert "pixels: " in said(folder, "--folder", tmp_path / "photos").out


def test_a_model_of_which_no_labels_can_be_told_is_refused(tmp_path: Path, digits_pack: Path, said: Any) -> None:
    ended = said(small_pack(tmp_path / "pack", digits_pack, 5), "--folder", SAMPLES)
    assert ended.code == 2 and "its labels fit neither" in ended.failure


# What is refused


def test_without_a_wish_it_takes_w8a8_and_fp32_where_that_failed(own_pack: Path, said: Any) -> None:
    assert "raspberry-pi-5 w8a8, " in said(own_pack, "--folder", SAMPLES).out
    rewrite(own_pack, "artifacts", index_of(own_pack, "ort", "w8a8"), "failures", value=["accuracy fell"])
    assert "raspberry-pi-5 fp32, " in said(own_pack, "--folder", SAMPLES).out


def test_a_failed_gate_is_refused_and_with_force_told(own_pack: Path, said: Any) -> None:
    rewrite(own_pack, "artifacts", index_of(own_pack, "ort", "w8a8"), "failures", value=["accuracy fell"])
    ended = said(own_pack, "--folder", SAMPLES, "--scheme", "w8a8")
    assert ended.code == 2 and "w8a8 failed: accuracy fell" in ended.failure
    forced = said(own_pack, "--folder", SAMPLES, "--scheme", "w8a8", "--force")
    assert forced.code == 0 and "w8a8 (failed its gate)" in forced.out


@pytest.mark.parametrize(
    "kind", ["outside", "absolute", "link", "missing", "changed", "schema", "text", "deep", "no labels list", "resize"]
)
def test_a_pack_that_is_not_the_verified_one_is_refused_before_the_model_is_loaded(own_pack: Path, said: Any, kind: str) -> None:
    index = index_of(own_pack, "ort", "w8a8")
    model = own_pack / load_pack(own_pack).artifacts[index].file.path
    shutil.copy(model, own_pack.parent / "model.onnx")
    if kind in ("outside", "absolute"):
        path = "../model.onnx" if kind == "outside" else str(own_pack.parent / "model.onnx")
        rewrite(own_pack, "artifacts", index, "file", "path", value=path)
    elif kind in ("link", "missing"):
        model.unlink()
        if kind == "link":
            model.symlink_to(own_pack.parent / "model.onnx")
    elif kind == "changed":
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 1
        model.write_bytes(content)
    elif kind in ("text", "deep"):
        (own_pack / "pack.json").write_text("no json" if kind == "text" else "[" * 100_000)
    else:
        spoiled: dict[str, tuple[tuple[str, ...], object]] = {
            "schema": (("schema",), 2),
            "no labels list": (("student", "labels"), "0123"),
            "resize": (("student", "preprocessing", "resize"), "crop\x1b[31m"),
        }
        rewrite(own_pack, *spoiled[kind][0], value=spoiled[kind][1])
    ended = said(own_pack, "--folder", SAMPLES)
    assert ended.code == 2 and ended.failure.startswith("FAIL pack: ") and "\x1b" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--folder", "nowhere"), "FAIL folder: nowhere cannot be read (No such file or directory)"),
        (("--folder", "empty"), "FAIL folder: empty holds no image"),
        (("--folder", "damaged"), "FAIL folder: none of the images in damaged can be read"),
        (("--folder", "empty", "--target", "ios"), "FAIL pack: ios fp32 runs in mil, not in ONNX Runtime"),
        (("--folder", "empty", "--scheme", "w4"), "FAIL pack: the pack has no such artifact"),
        (("--folder", "empty", "--threads", "0"), "FAIL usage: argument --threads: invalid int of at least 1 value: '0'"),
        (("--folder", "empty", "--every", "nan"), "FAIL usage: argument --every: "),
        (("--folder", "empty", "--camera"), "FAIL usage: argument --camera: not allowed with argument --folder"),
        (("--camera", "--watch"), "FAIL usage: --watch goes with --folder"),
        ((), "FAIL usage: one of the arguments --folder --camera --camera-command is required"),
        (("--camera-command", "'"), "FAIL usage: --camera-command cannot be split into words"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    digits_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Any, arguments: tuple[str, ...], cause: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.png").write_bytes(b"no image")
    ended = said(digits_pack, *arguments)
    assert ended.code == 2 and ended.failure.startswith(cause)


def test_a_folder_that_is_no_pack_is_refused(tmp_path: Path, said: Any) -> None:
    ended = said(tmp_path, "--folder", SAMPLES)
    assert ended.code == 2 and "is not a pack (pack.json: No such file or directory)" in ended.failure


def test_a_model_that_the_runtime_does_not_load_is_exit_code_3(own_pack: Path, said: Any) -> None:
    index = index_of(own_pack, "ort", "w8a8")
    model = own_pack / load_pack(own_pack).artifacts[index].file.path
    model.write_bytes(b"no model")
    rewrite(own_pack, "artifacts", index, "file", "sha256", value=file_record(own_pack.resolve(), model.resolve()).sha256)
    ended = said(own_pack, "--folder", SAMPLES)
    assert ended.code == 3 and ended.failure.startswith("FAIL model: onnxruntime ")


@pytest.mark.parametrize("location", ["../weights.bin", "weights.bin", "/etc/hostname"])
def test_a_model_that_keeps_weights_in_other_files_is_refused(digits_pack: Path, tmp_path: Path, location: str) -> None:
    folder = small_pack(tmp_path / "pack", digits_pack, 3)
    for place in (tmp_path, folder, folder / "model"):
        (place / "weights.bin").write_bytes(bytes(4))
    model = onnx.load(folder / "model" / "m.onnx")
    weight = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    model.graph.node[0].CopyFrom(helper.make_node("Add", ["x", "w"], ["y"]))
    (folder / "model" / "m.onnx").write_bytes(model.SerializeToString())
    record = file_record(folder.resolve(), folder.resolve() / "model" / "m.onnx")
    rewrite(folder, "artifacts", 0, "file", value=msgspec.to_builtins(record))
    command = [sys.executable, PROGRAM, folder, "--folder", SAMPLES]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 3 and Said(3, "", ended.stderr).failure.startswith("FAIL model: onnxruntime ")


def test_the_program_needs_only_what_device_setup_installs() -> None:
    tree = ast.walk(ast.parse(PROGRAM.read_text()))
    names = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(ast.parse(PROGRAM.read_text())) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}


def test_without_its_packages_it_says_how_to_get_them(digits_pack: Path) -> None:
    ended = subprocess.run([sys.executable, "-I", "-S", PROGRAM, digits_pack], capture_output=True, text=True, check=False)
    assert Said(ended.returncode, ended.stdout, ended.stderr).failure.startswith("FAIL start: No module named 'numpy'")
    assert ended.returncode == 2 and "edgepack device setup" in ended.stderr


# Folders


def test_a_damaged_image_is_told_and_the_others_are_classified(digits_pack: Path, tmp_path: Path, said: Any) -> None:
    for name in ("digit_1.png", "digit_7.png"):
        shutil.copy(SAMPLES / name, tmp_path)
    (tmp_path / "digit_3\x1b.png").write_bytes((SAMPLES / "digit_3.png").read_bytes()[:150])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".digit_9.png").write_text("a copy under way")
    ended = said(*classify_command(digits_pack, tmp_path)[1:])
    assert ended.code == 0
    assert {name: each["top"][0]["label"] for name, each in ended.images().items()} == {"digit_1.png": "1", "digit_7.png": "7"}
    (told,) = [each for each in ended.events if each["event"] == "unreadable"]
    assert told["input"].endswith("digit_3\\x1b.png") and "cannot be read as an image" in told["cause"]
    assert (ended.events[-1]["count"], ended.events[-1]["unreadable"]) == (2, 1)


def test_the_summary_has_quantiles_only_of_enough_images(digits_pack: Path, tmp_path: Path, said: Any) -> None:
    for index in range(30):
        shutil.copy(SAMPLES / "digit_0.png", tmp_path / f"{index:03}.png")
    few, some = (said(*classify_command(digits_pack, tmp_path)[1:], "--count", count) for count in ("19", "20"))
    assert (few.events[-1]["p50_ms"], few.events[-1]["count"]) == (None, 19)
    times = [each["inference_ms"] for each in some.images().values()]
    assert some.events[-1]["p50_ms"] == pytest.approx(np.median(times)) and some.events[-1]["p90_ms"] is None
    tally = classify.Tally(100, 0, classify.deque(range(1, 101)))
    assert tally.summary(None)["p90_ms"] == pytest.approx(90.1)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(classify.time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))
    return clock


def given_until(shots: Iterator[Any], clock: Clock, seconds: float) -> list[Any]:
    """What a source gives until the clock shows ``seconds``."""
    found = []
    while clock.now < seconds:
        found.append(next(shots))
    return [(shot.source.name, shot.patient) for shot in found if shot is not None]


def test_a_file_counts_once_it_stays_as_it_is_and_again_when_it_changes(tmp_path: Path, clock: Clock) -> None:
    watch = classify.Watch(tmp_path, clock)
    shots, path = watch.shots(), tmp_path / "a.png"
    path.write_bytes(b"1")
    assert given_until(shots, clock, 0.5) == []
    path.write_bytes(b"12")
    assert given_until(shots, clock, 1.5) == [], "it grew meanwhile"
    assert given_until(shots, clock, 2.5) == [("a.png", True)]
    assert given_until(shots, clock, 9.0) == []
    path.write_bytes(b"123")
    assert given_until(shots, clock, 12.0) == [("a.png", True)]
    path.unlink()
    assert given_until(shots, clock, 15.0) == []


def test_a_copy_that_stalls_is_given_again_before_it_is_called_damaged(tmp_path: Path, clock: Clock) -> None:
    watch = classify.Watch(tmp_path, clock)
    (tmp_path / "a.png").write_bytes(b"half")
    given = []
    for shot in watch.shots():
        given += [shot.patient] if shot else []
        if shot and shot.patient:
            watch.again(shot)
        if clock.now > 15:
            break
    assert given == [True] * (len(given) - 1) + [False] and len(given) > 10


def test_watching_waits_for_half_copied_images_and_sigterm_brings_the_summary(digits_pack: Path, tmp_path: Path) -> None:
    shutil.copy(SAMPLES / "digit_1.png", tmp_path)
    content = (SAMPLES / "digit_7.png").read_bytes()
    (tmp_path / "late.png").write_bytes(content[:100])
    process = started(*classify_command(digits_pack, tmp_path)[1:], "--watch")
    first = until(process, "digit_1.png")
    time.sleep(1.5)
    (tmp_path / "late.png").write_bytes(content)
    second = until(process, "late.png")
    process.send_signal(signal.SIGTERM)
    rest, complaint = process.communicate(timeout=20)
    ended = Said(process.returncode, first + second + rest, complaint)
    assert (ended.code, ended.err) == (0, "")
    assert ended.images()["late.png"]["top"][0]["label"] == "7"
    assert (ended.events[-1]["event"], ended.events[-1]["count"], ended.events[-1]["unreadable"]) == ("summary", 2, 0)


def test_ctrl_c_brings_the_summary_too(digits_pack: Path, tmp_path: Path) -> None:
    process = started(digits_pack, "--folder", tmp_path, "--watch")
    until(process, "digits: ")
    process.send_signal(signal.SIGINT)
    out, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (0, "") and out.startswith("0 classified; 0 unreadable; ")


def test_a_reader_that_leaves_ends_it_quietly(digits_pack: Path) -> None:
    process = started(digits_pack, "--folder", SAMPLES, "--every", "0.2")
    until(process, "digit_1.png")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(20) == 0
    process.stderr.close()


# The camera


def jpeg(seed: int, size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    file = io.BytesIO()
    photograph("RGB", size, seed).save(file, "JPEG", **options)
    return file.getvalue()


def with_thumbnail(image: bytes) -> bytes:
    """An APP1 segment that holds a JPEG of its own, end marker and all."""
    inner = b"Exif\0\0" + jpeg(9, (8, 8))
    return image[:2] + b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner + image[2:]


FRAMES = [
    jpeg(0),
    with_thumbnail(jpeg(1)),
    jpeg(2, progressive=True),
    jpeg(3, restart_marker_blocks=1),
    jpeg(4, (200, 100), quality=98),
    jpeg(5, comment=b"\xff\xd9 is how an image ends"),
]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1000, 2**20])
def test_a_stream_is_cut_into_its_frames_however_it_arrives(chunk: int) -> None:
    stream = b"noise \xff\xff\xd9" + b"\xff\xff between".join(FRAMES)
    cutter = classify.MotionJpeg()
    found = [frame for start in range(0, len(stream), chunk) for frame in cutter.feed(stream[start : start + chunk])]
    # What stands between two images belongs to none.
    assert found == FRAMES


def test_a_frame_that_was_cut_off_takes_no_other_with_it() -> None:
    cutter = classify.MotionJpeg()
    scan = FRAMES[0].index(b"\xff\xda") + 40
    assert cutter.feed(FRAMES[0][:scan] + FRAMES[4] + FRAMES[5]) == [FRAMES[4], FRAMES[5]]


def test_any_bytes_cost_bounded_memory_and_the_next_frames_are_found() -> None:
    cutter, chance = classify.MotionJpeg(), random.Random(0)
    cutter.LARGEST = 100_000
    for _ in range(40):
        cutter.feed(b"\xff\xd8\xff" + chance.randbytes(20_000).replace(b"\xff", b""))
        assert len(cutter._held) <= 120_000
    assert FRAMES[5] in [frame for _ in range(9) for frame in cutter.feed(FRAMES[5])]


CAMERA = """
import sys, time
frames = [open(name, "rb").read() for name in sys.argv[2:]]
for frame in frames:
    sys.stdout.buffer.write(frame)
    sys.stdout.flush()
    time.sleep(float(sys.argv[1]))
"""


def camera(folder: Path, pause: float, *frames: bytes, then: str = "") -> str:
    """A command that writes frames as a camera does, then runs ``then``."""
    paths = [folder / f"frame_{index}.bin" for index in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        path.write_bytes(frame)
    return shlex.join([sys.executable, "-c", CAMERA + then, str(pause), *map(str, paths)])


def digit_frames(*digits: int) -> list[bytes]:
    frames = []
    for digit in digits:
        file = io.BytesIO()
        Image.open(SAMPLES / f"digit_{digit}.png").resize((320, 320)).save(file, "JPEG", quality=95)
        frames.append(file.getvalue())
    return frames


def test_frames_of_a_camera_are_classified_as_they_come(digits_pack: Path, tmp_path: Path, said: Any) -> None:
    ended = said(digits_pack, "--camera-command", camera(tmp_path, 0.4, *digit_frames(3, 7, 1)), "--json")
    assert (ended.code, ended.err) == (0, "")
    assert [(each["input"], each["top"][0]["label"]) for each in ended.events[1:-1]] == [
        ("frame 1", "3"),
        ("frame 2", "7"),
        ("frame 3", "1"),
    ]
    assert (ended.events[-1]["count"], ended.events[-1]["dropped"]) == (3, 0)


def test_the_newest_frame_wins_and_the_others_are_counted(digits_pack: Path, tmp_path: Path, said: Any) -> None:
    command = camera(tmp_path, 0.02, *digit_frames(3, *([1] * 48), 7))
    ended = said(digits_pack, "--camera-command", command, "--every", "3", "--json")
    shown = [each["input"] for each in ended.events[1:-1]]
    assert shown[-1] == "frame 50" and len(shown) <= 3
    assert ended.events[-2]["top"][0]["label"] == "7"
    assert ended.events[-1]["dropped"] == 50 - len(shown)


def test_a_damaged_frame_is_told_and_the_next_are_classified(digits_pack: Path, tmp_path: Path, said: Any) -> None:
    damaged = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xd9"
    ended = said(digits_pack, "--camera-command", camera(tmp_path, 0.4, damaged, *digit_frames(7)), "--json")
    assert ended.code == 0
    assert [each["event"] for each in ended.events] == ["begin", "unreadable", "image", "summary"]


def test_a_camera_that_fails_is_exit_code_3_after_the_summary(digits_pack: Path, tmp_path: Path, said: Any) -> None:
    command = camera(tmp_path, 0.2, *digit_frames(7), then="sys.exit('ERROR: *** no cameras available ***')")
    ended = said(digits_pack, "--camera-command", command, "--json")
    assert ended.code == 3 and "ended with 1 after 1 frames (ERROR: *** no cameras available ***)" in ended.failure
    assert (ended.events[-1]["event"], ended.events[-1]["count"]) == ("summary", 1)


@pytest.mark.parametrize(("command", "cause"), [("true", "ended with 0 after 0 frames (no words)"), ("/nowhere/camera", "does not start")])
def test_a_camera_without_frames_is_exit_code_3(digits_pack: Path, said: Any, command: str, cause: str) -> None:
    ended = said(digits_pack, "--camera-command", command)
    assert ended.code == 3 and cause in ended.failure


def test_a_stuck_camera_is_given_up_and_ended(digits_pack: Path, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify.Camera, "STUCK_S", 0.5)
    begun = time.monotonic()
    ended = said(digits_pack, "--camera-command", "sleep 60")
    assert ended.code == 3 and "sleep gave no frame for 0.5 s" in ended.failure
    assert time.monotonic() - begun < 20


def test_the_pis_own_camera_program_is_found_and_asked_for_mjpeg(
    digits_pack: Path, tmp_path: Path, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "neither rpicam-vid nor libcamera-vid is here" in said(digits_pack, "--camera").failure
    wanted = "--nopreview --timeout 0 --codec mjpeg --width 640 --height 480 --framerate 15 --quality 90 --flush --output -"
    (tmp_path / "f.jpg").write_bytes(digit_frames(7)[0])
    script = f'#!/bin/sh\n[ "$*" = "{wanted}" ] && exec /bin/cat {tmp_path}/f.jpg\necho "$*" >&2; exit 1\n'
    (tmp_path / "libcamera-vid").write_text(script)
    (tmp_path / "libcamera-vid").chmod(0o755)
    ended = said(digits_pack, "--camera")
    assert ended.code == 0 and "frame 1: 7 " in ended.out, ended.err


# As a service


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end of $NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(str(tmp_path / "notify"))
        link.settimeout(20)
        yield link


def test_systemd_hears_when_it_is_ready_alive_and_stopping(digits_pack: Path, tmp_path: Path, notified: socket.socket) -> None:
    (tmp_path / "photos").mkdir()
    process = started(digits_pack, "--folder", tmp_path / "photos", "--watch", NOTIFY_SOCKET=str(tmp_path / "notify"))
    heard = [notified.recv(100) for _ in range(4)]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    notified.settimeout(1)
    while heard[-1] != b"STOPPING=1":
        heard.append(notified.recv(100))
    assert process.returncode == 0
    assert heard == [b"READY=1", *([b"WATCHDOG=1"] * (len(heard) - 2)), b"STOPPING=1"]


def test_the_watchdog_hears_of_it_during_a_long_pause(tmp_path: Path, notified: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    program = classify.Program(None, None, classify.Service(), classify.Stop(), classify.Tally())
    program._rest(0.35)
    assert [notified.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3


def test_an_abstract_socket_is_understood_and_a_missing_manager_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        name = f"edgepack-{os.getpid()}"
        link.bind(f"\0{name}")
        link.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        service = classify.Service()
        assert "NOTIFY_SOCKET" not in os.environ, "the camera program must not speak for the service"
        service.tell("READY=1")
        assert link.recv(100) == b"READY=1"
    service.tell("WATCHDOG=1")


def test_the_unit_is_one_that_systemd_accepts(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here (Debian package systemd)")
    if not os.access("/usr/bin/python3", os.X_OK):
        pytest.skip("the unit starts /usr/bin/python3, which is not here")
    unit = Path(shutil.copy(UNIT, tmp_path))
    held = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    ended = subprocess.run(["systemd-analyze", "--user", "verify", unit], capture_output=True, text=True, env=held, check=False)
    assert (ended.returncode, [line for line in ended.stderr.splitlines() if unit.name in line]) == (0, [])


def test_the_unit_runs_the_program_with_options_it_has() -> None:
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
    program, *arguments = shlex.split(line.removeprefix("ExecStart=/usr/bin/python3 ").replace("%h", "/home/pi"))
    assert program == "/home/pi/edgepack/classify.py"
    asked = classify.parser().parse_args(arguments)
    assert asked.camera and asked.pack == Path("/home/pi/edgepack/pack")


# On a Pi


def test_an_emulated_pi_names_the_digits_as_this_machine_does(digits_pack: Path, said: Any, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("tests.fakes.pi", reason="no emulated Pi in this checkout")
    board = request.getfixturevalue("pi5_board")
    with tempfile.TemporaryDirectory(dir=board.home) as folder:
        for source, name in ((digits_pack, "pack"), (SAMPLES, "photos")):
            shutil.copytree(source, Path(folder) / name)
        shutil.copy(PROGRAM, folder)
        command = board.command(*classify_command("pack", "photos", "classify.py"))
        environment = {**board.environment(), "PYTHONPATH": str(board.userland.site)}
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    there, here = Said(ended.returncode, ended.stdout, ended.stderr), said(*classify_command(digits_pack, SAMPLES)[1:])
    assert there.code == 0, there.err
    assert there.events[0]["machine"].endswith("(emulated)")
    first = [{name: each["top"][0]["label"] for name, each in side.images().items()} for side in (there, here)]
    assert first[0] == first[1] and len(first[0]) == 10
