"""The kinds of mutated input: what is copied, how it is changed, which functions and which command open it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.mutations import operate
from tests.mutations.mutate import damage, disturb_folder, edit_message, edited_json, edited_text, edited_zip, head_damage

Change = Callable[[Path, Random], None]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        copied: paths of the seeds that a case gets; subject: the one that is opened, relative to the case.
        group: which parent process has its libraries; weight: its share of the cases.
        command: arguments of the real command, with {subject}, {case} and {out} filled in.
        in_worker: whether the command opens it in a process with a memory limit, where running out of memory is a reported result.
    """

    name: str
    group: str
    weight: int
    copied: tuple[str, ...]
    subject: str
    change: Change
    operate: Callable[[Path, Path], None]
    command: tuple[str, ...]
    in_worker: bool = True


def make_case(kind: Kind, seeds: Path, case: Path, random: Random) -> Path:
    """Copy and change; returns what is to be opened."""
    for name in kind.copied:
        source, place = seeds / name, case / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, place) if source.is_dir() else shutil.copyfile(source, place)
    subject = case / _subject(kind, case, random)
    kind.change(subject, random)
    return subject


def _subject(kind: Kind, case: Path, random: Random) -> str:
    """The path itself, or one of several for a glob."""
    if "*" not in kind.subject:
        return kind.subject
    return random.choice(sorted(path.relative_to(case).as_posix() for path in case.glob(kind.subject)))


def _raw(path: Path, random: Random) -> None:
    path.write_bytes(damage(path.read_bytes(), random))


def _onnx(path: Path, random: Random) -> None:
    import onnx

    if random.random() < 0.35:
        _raw(path, random)
        return
    model = onnx.ModelProto.FromString(path.read_bytes())
    for _ in range(random.choice((1, 1, 2, 3))):
        edit_message(model, random)
    path.write_bytes(model.SerializeToString())


def _external(path: Path, random: Random) -> None:
    disturb_folder(path.parent, random) if random.random() < 0.3 else _onnx(path, random)


def _tflite(path: Path, random: Random) -> None:
    path.write_bytes((damage if random.random() < 0.2 else head_damage)(path.read_bytes(), random))


def _package(path: Path, random: Random) -> None:
    from edgepack.mil.environment import coremltools

    model, action = path / "Data" / "com.apple.CoreML" / "model.mlmodel", random.random()
    if action < 0.15:
        disturb_folder(path, random)
    elif action < 0.25:
        _raw(path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin", random)
    elif action < 0.35:
        (path / "Manifest.json").write_bytes(edited_json((path / "Manifest.json").read_bytes(), random))
    elif action < 0.5:
        _raw(model, random)
    else:
        spec = coremltools().proto.Model_pb2.Model.FromString(model.read_bytes())
        for _ in range(random.choice((1, 1, 2, 3))):
            edit_message(spec, random)
        model.write_bytes(spec.SerializeToString())


def _exported(path: Path, random: Random) -> None:
    def inner(name: str, content: bytes, random: Random) -> bytes:
        return edited_json(content, random) if name.endswith(".json") and random.random() < 0.9 else damage(content, random)

    path.write_bytes((damage(path.read_bytes(), random)) if random.random() < 0.15 else edited_zip(path.read_bytes(), random, inner))


def _manifest(path: Path, random: Random) -> None:
    if random.random() < 0.5:
        path.write_bytes(edited_text(path.read_bytes(), random))
    elif random.random() < 0.3:
        disturb_folder(path.parent, random)
    else:
        _arrays_or_text(path.parent / random.choice(_USED[path.stem]), random)


_USED = {"npz": ("calibration.npz", "evaluation.npz"), "csv": ("samples.csv",), "crops": ("crops.csv",), "images": ("images/a/0.png",)}


def _arrays_or_text(path: Path, random: Random) -> None:
    if path.suffix == ".npz" and random.random() < 0.6:
        path.write_bytes(edited_zip(path.read_bytes(), random, lambda _, content, random: _header(content, random)))
    elif path.suffix in (".csv", ".toml") and random.random() < 0.7:
        path.write_bytes(edited_text(path.read_bytes(), random))
    elif path.suffix == ".npy" and random.random() < 0.6:
        path.write_bytes(_header(path.read_bytes(), random))
    else:
        _raw(path, random)


def _header(content: bytes, random: Random) -> bytes:
    """An .npy whose header claims something else, of the same length."""
    shape = random.choice((b"(1099511627776,)", b"(2, 3, 8, 8)", b"(-1, 3)", b"(1,) * 9999", b"((((((((1", b"(1e9,)", b"()"))
    old = content[content.find(b"(") : content.find(b")") + 1]
    changed = content.replace(old, shape[: len(old)].ljust(len(old)) if random.random() < 0.7 else shape, 1)
    kind = random.choice((b"'|O'", b"'<f8'", b"'<U9'", b"'|V4'", b"'<m8'"))
    return changed.replace(b"'<f4'", kind) if random.random() < 0.3 else changed


def _pack(path: Path, random: Random) -> None:
    action = random.random()
    if action < 0.6:
        (path / "pack.json").write_bytes(edited_json((path / "pack.json").read_bytes(), random))
    elif action < 0.75:
        _raw(path / "pack.json", random)
    else:
        disturb_folder(path, random)


def _measured(path: Path, random: Random) -> None:
    """A measurement of an artifact of the pack is laid in it and changed, or the budgets it is held to are."""
    manifest = json.loads((path / "pack.json").read_bytes())
    artifact = random.choice([held for held in manifest["artifacts"] if held["latency"]])
    latency = artifact["latency"] | {"truth": "measured", "p90": artifact["latency"]["p50"], "floor_ms": 1e-6}
    told = {key: artifact[key] for key in ("target", "scheme", "parity")} | {"artifact": artifact["file"]["sha256"], "latency": latency}
    told |= {"schema": 1, "edgepack": "0", "created": "2026-11-28T10:00:00+00:00", "truth": "measured", "memory_peak_bytes": 1}
    told |= {"device": {"board": "Raspberry Pi 5", "architecture": "aarch64"}}
    (path / "measurements").mkdir()
    content = json.dumps(told).encode()
    action = random.random()
    content = edited_json(content, random) if action < 0.6 else damage(content, random) if action < 0.7 else content
    (path / "measurements" / "a.json").write_bytes(content)
    if 0.7 <= action < 0.85:
        disturb_folder(path / "measurements", random)
    elif action >= 0.85:
        for target in manifest["targets"]:
            target["budgets"] |= {"latency_p90_ms": 1.0, "size_bytes": 1, "memory_peak_bytes": 1}
        (path / "pack.json").write_bytes(edited_json(json.dumps(manifest).encode(), random))


def _run(runner: str) -> Change:
    """The artifact of a runner that comes first is changed and its digest set right, as a stranger would; or what is said of it."""

    def change(path: Path, random: Random) -> None:
        manifest: dict[str, Any] = json.loads((path / "pack.json").read_bytes())
        kept = [artifact for artifact in manifest["artifacts"] if artifact["runner"] == runner]
        manifest["artifacts"] = [random.choice(kept)]
        artifact = path / manifest["artifacts"][0]["file"]["path"]
        if random.random() < 0.8:
            {"ort": _onnx, "litert": _tflite, "mil": _package}[runner](artifact, random)
        content = json.dumps(manifest).encode()
        if random.random() < 0.25:
            content = edited_json(content, random)
        (path / "pack.json").write_bytes(_sealed(content, path))

    return change


def _sealed(content: bytes, folder: Path) -> bytes:
    """The manifest with the digests that its files have."""
    from edgepack.pack.digest import file_record
    from edgepack.pack.files import PackError

    try:
        manifest = json.loads(content)
        held = manifest["artifacts"][0]["file"]
        held["sha256"] = file_record(folder, folder / held["path"]).sha256
        return json.dumps(manifest).encode("utf-8", "surrogatepass")
    except (PackError, ValueError, OSError, LookupError, TypeError, AttributeError, RecursionError):
        return content


KINDS = (
    Kind("onnx", "onnx", 12, ("student.onnx", "pack/hub"), "pack/hub/*.onnx", _onnx, operate.look, ("inspect", "{subject}")),
    Kind("external", "onnx", 4, ("external",), "external/student.onnx", _external, operate.look, ("inspect", "{subject}")),
    Kind("student", "onnx", 8, ("student.onnx",), "student.onnx", _onnx, operate.onnx_student, ("inspect", "{subject}")),
    Kind("tflite", "litert", 12, ("pack/android",), "pack/android/*/model.tflite", _tflite, operate.look, ("inspect", "{subject}")),
    Kind("mlpackage", "mil", 10, ("pack/ios",), "pack/ios/*/model.mlpackage", _package, operate.look, ("inspect", "{subject}")),
    Kind("pt2", "torch", 10, ("student.pt2",), "student.pt2", _exported, operate.student, ("inspect", "{subject}")),
    Kind("pack", "light", 14, ("pack",), "pack", _pack, operate.pack, ("report", "{subject}", "-o", "{out}/report.html"), in_worker=False),
    Kind("measured", "light", 6, ("pack",), "pack", _measured, operate.gate, ("gate", "{subject}", "--junit", "{out}/gate.xml"), False),
    *(
        Kind(
            name=f"run {runner}",
            group=group,
            weight=7,
            copied=("pack", "inputs/plain.npz"),
            subject="pack",
            change=_run(runner),
            operate=operate.run(runner),
            command=("run", "{subject}", "{case}/inputs/plain.npz", "--no-time"),
            in_worker=False,
        )
        for runner, group in (("ort", "onnx"), ("litert", "litert"), ("mil", "mil"))
    ),
    Kind(
        name="manifest",
        group="light",
        weight=10,
        copied=("data", "student.json", "student.onnx"),
        subject="data/*.toml",
        change=_manifest,
        operate=operate.calibration,
        command=("inspect", "{case}/student.onnx", "-c", "{subject}"),
    ),
    Kind(
        name="target",
        group="light",
        weight=3,
        copied=("target.toml", "student.onnx"),
        subject="target.toml",
        change=lambda path, random: path.write_bytes(edited_text(path.read_bytes(), random)) and None,
        operate=operate.target,
        command=("inspect", "{case}/student.onnx", "-t", "{subject}"),
        in_worker=False,
    ),
    Kind(
        name="input",
        group="light",
        weight=7,
        copied=("inputs", "pack"),
        subject="inputs/*",
        change=_arrays_or_text,
        operate=operate.given,
        command=("run", "{case}/pack", "{subject}", "--no-time", "-t", "raspberry-pi-5"),
        in_worker=False,
    ),
)
# What a group's parent imports once; its children are forks of it.
LIBRARIES = {
    "onnx": ("onnx", "onnxruntime", "onnxscript", "onnx_ir", "onnxscript.optimizer", "edgepack.hub.canonical", "edgepack.runner.ort"),
    "litert": ("ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated", "edgepack.runner.litert"),
    "mil": ("edgepack.runner.mil", "edgepack.mil.program"),
    "torch": ("torch", "torch.export", "torch.export.pt2_archive._package", "torch.onnx", "onnxscript", "onnx", "onnxruntime"),
    "light": ("PIL.Image", "PIL.ImageOps", "jinja2", "msgspec"),
}
