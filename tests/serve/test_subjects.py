"""What of a pack a browser gets, and what it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgepack.latency.on_device import OpenPack
from edgepack.latency.protocol import profile
from edgepack.pack.files import PackError, load_pack
from edgepack.serve.messages import Visit
from edgepack.serve.subjects import Served, input_bytes, plan, served, served_to

FIXTURES = Path(__file__).parents[2] / "demo_app" / "ios" / "EdgepackKit" / "Tests" / "EdgepackKitTests" / "Fixtures"


def of(pack: OpenPack) -> Served:
    return served(pack, (), (), profile("smoke"), 1, {})


@pytest.fixture
def opened(digits_pack: Path) -> OpenPack:
    return OpenPack.at(digits_pack, load_pack(digits_pack))


def test_both_runtimes_are_served_and_core_ml_is_left_out_with_a_reason(opened: OpenPack) -> None:
    held = of(opened)
    assert [[subject.artifact.runner for subject in group] for group in held.groups] == [["ort", "ort"], ["litert", "litert"]]
    assert len(held.left_out) == 2 and all("Apple" in line for line in held.left_out)


def test_one_file_of_two_targets_is_run_once(opened: OpenPack) -> None:
    twin = tuple(msgspec.structs.replace(each, target="raspberry-pi-4") for each in opened.manifest.artifacts if each.runner == "ort")
    manifest = msgspec.structs.replace(opened.manifest, artifacts=(*opened.manifest.artifacts, *twin))
    assert len(of(replace(opened, manifest=manifest)).subjects) == 4


def test_an_artifact_that_failed_its_gate_is_left_out(opened: OpenPack) -> None:
    first, *others = opened.manifest.artifacts
    failed = msgspec.structs.replace(first, failures=("it is wrong",))
    held = of(replace(opened, manifest=msgspec.structs.replace(opened.manifest, artifacts=(failed, *others))))
    assert len(held.subjects) == 3 and "failed its gate" in held.left_out[0]


def test_tensors_that_a_runtime_has_not_in_a_browser_are_named(opened: OpenPack) -> None:
    artifact = next(each for each in opened.manifest.artifacts if each.runner == "litert")
    inputs = tuple(msgspec.structs.replace(each, dtype="int8") for each in artifact.inputs)
    manifest = msgspec.structs.replace(opened.manifest, artifacts=(msgspec.structs.replace(artifact, inputs=inputs),))
    held = of(replace(opened, manifest=manifest))
    assert not held.subjects and "LiteRT.js has no tensors of type int8" in held.left_out[0]
    pi_alone = msgspec.structs.replace(manifest, artifacts=(msgspec.structs.replace(manifest.artifacts[0], platform="raspberry-pi"),))
    with pytest.raises(PackError, match=r"LiteRT.js has no tensors of type int8"):
        of(replace(opened, manifest=pi_alone))


def test_an_app_is_not_given_a_package_whose_state_core_ml_keeps(opened: OpenPack) -> None:
    app = msgspec.structs.replace(msgspec.json.decode((FIXTURES / "visit.json").read_bytes(), type=Visit).visitor, units=("all",))
    first, *others = (each for each in opened.manifest.artifacts if each.runner == "mil")
    kept = msgspec.structs.replace(first, kept=("past",))
    held = served_to(app, of(replace(opened, manifest=msgspec.structs.replace(opened.manifest, artifacts=(kept, *others)))))
    assert len(held.subjects) == len(others) == 1 and "Core ML keeps its state" in held.left_out[0]
    alone = of(replace(opened, manifest=msgspec.structs.replace(opened.manifest, artifacts=(kept,))))
    with pytest.raises(PackError, match="Core ML keeps its state"):
        served_to(app, alone)


def test_inputs_are_the_golden_samples_in_the_artifacts_own_layout(opened: OpenPack) -> None:
    subject = next(each for each in of(opened).subjects if each.artifact.runner == "litert")
    sent = np.frombuffer(input_bytes(subject, 0), "<f4").reshape(-1, 1, 28, 28, 1)
    assert np.array_equal(sent[..., 0], opened.golden["image"][:, :, 0])


def test_a_student_of_digits_is_drawn_for_and_tensors_are_not(opened: OpenPack) -> None:
    assert plan(of(opened)).demo.kind == "draw"
    student = msgspec.structs.replace(opened.manifest.student, preprocessing=None)
    assert plan(of(replace(opened, manifest=msgspec.structs.replace(opened.manifest, student=student)))).demo.kind == "none"


@pytest.mark.parametrize("change", [{"golden": {}}, {"golden": {"image": np.zeros(3)}}, {"reference": {}}])
def test_a_pack_whose_golden_samples_are_of_something_else_is_one_line(opened: OpenPack, change: dict[str, object]) -> None:
    with pytest.raises(PackError, match="golden"):
        of(replace(opened, **change))  # type: ignore[arg-type]


def test_a_corrupted_artifact_is_not_even_offered(opened: OpenPack, pack: Path) -> None:
    path = pack / opened.manifest.artifacts[0].file.path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(PackError, match="is not the file that was verified"):
        of(OpenPack.at(pack, load_pack(pack)))
