"""Every claim of a pack, and every way in which one can be wrong: a forger recomputes the digests, so they alone prove nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from edgepack import api
from edgepack.arrays import load_arrays, save_arrays
from edgepack.converter.step import Limits
from edgepack.pack.digest import file_record
from edgepack.pack.files import PackError, load_pack
from edgepack.pack.manifest import Pack
from edgepack.verify.claims import Claim, Wish, first_broken, verify

LIMITS = Limits(120, 4 * 2**30)
CLASSES = 5


def network(path: Path) -> Path:
    """Conv, Relu, GlobalAveragePool, Flatten, Gemm over 3 x 12 x 12 images, seeded weights."""
    random, helper = np.random.default_rng(3), onnx.helper
    weights = {
        "w": random.normal(size=(8, 3, 3, 3)) / 4,
        "b": random.normal(size=8) / 4,
        "v": random.normal(size=(CLASSES, 8)),
        "c": random.normal(size=CLASSES) / 4,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], "conv"),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "v", "c"], ["y"], "gemm", transB=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (("x", [1, 3, 12, 12]), ("y", [1, CLASSES]))
    ]
    tensors = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def data(folder: Path, model: Path) -> Path:
    """A manifest over two .npz files; labels are the student's own classes."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    for name, seed, count in (("calibration", 5, 24), ("evaluation", 6, 48)):
        images = np.random.default_rng(seed).normal(size=(count, 1, 3, 12, 12)).astype(np.float32)
        labels = np.array([int(session.run(None, {"x": image})[0].argmax()) for image in images])
        np.savez(folder / f"{name}.npz", x=images, labels=labels)
    manifest = folder / "data.toml"
    manifest.write_text(
        'name = "data"\n[calibration]\nnpz = "calibration.npz"\n[calibration.columns]\nx = "x"\n'
        '[evaluation]\nnpz = "evaluation.npz"\nlabels = "labels"\n[evaluation.columns]\nx = "x"\n'
    )
    return manifest


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with student, data and the pack for two targets."""
    folder = tmp_path_factory.mktemp("claims")
    model = network(folder / "student.onnx")
    manifest = data(folder, model)
    targets = ["raspberry-pi-5", "android"]
    pack = api.build(str(model), folder / "pack", targets=targets, calibration=str(manifest), latency="none", limits=LIMITS)
    assert not [line for artifact in pack.artifacts for line in artifact.failures]
    return folder


def look(pack: Path, **wish: object) -> list[Claim]:
    return verify(pack, load_pack(pack), Wish(limits=LIMITS, **wish), api.Silent())  # type: ignore[arg-type]


def copied(built: Path, folder: Path) -> Path:
    shutil.copytree(built / "pack", folder / "pack")
    return folder / "pack"


def settle(pack: Path, change: Callable[[dict[str, object]], None] = lambda _: None) -> None:
    """Rewrite the manifest as a forger would: fields changed, every digest made true again."""
    held = json.loads((pack / "pack.json").read_text())
    change(held)
    manifest = msgspec.convert(held, Pack)
    true = {record.path: file_record(pack.resolve(), (pack / record.path).resolve()) for record in manifest.files}

    def renewed(value: object) -> object:
        if isinstance(value, dict):
            fresh = true.get(str(value.get("path"))) if "sha256" in value else None
            return msgspec.to_builtins(fresh) if fresh else {key: renewed(inner) for key, inner in value.items()}
        return [renewed(inner) for inner in value] if isinstance(value, list) else value

    (pack / "pack.json").write_text(json.dumps(renewed(held)))


def test_a_pack_as_built_holds_with_its_data_and_nothing_is_left_out(built: Path) -> None:
    claims = look(built / "pack", manifest=built / "data.toml")
    assert [claim for claim in claims if claim.holds is not True] == []
    assert {(claim.subject, claim.what) for claim in claims} >= {
        ("pack", "data"),
        ("pack", "ranges"),
        ("hub w8a8", "rebuild"),
        ("android w8a8", "rebuild"),
        ("android w8a8", "accuracy"),
        ("raspberry-pi-5 fp32", "parity"),
    }


def test_without_the_data_accuracy_is_said_not_to_be_looked_at(built: Path) -> None:
    claims = look(built / "pack")
    assert first_broken(claims) is None
    assert {claim.what for claim in claims if claim.holds is None} == {"accuracy"}


def test_int8_weights_are_made_again_with_the_data_and_without_them_but_for_their_biases(built: Path) -> None:
    pack, wish = built / "narrow", {"targets": ["raspberry-pi-5"], "schemes": ["w8"], "latency": "none", "limits": LIMITS}
    api.build(str(built / "student.onnx"), pack, calibration=str(built / "data.toml"), **wish)  # type: ignore[arg-type]
    rebuilds = [look(pack, manifest=built / "data.toml"), look(pack)]
    said = [claim for claims in rebuilds for claim in claims if (claim.subject, claim.what) == ("hub w8", "rebuild")]
    assert [claim.holds for claim in said] == [True, True]
    assert ["need -c" in claim.detail for claim in said] == [False, True]
    assert all(first_broken(claims) is None for claims in rebuilds)


def test_quick_is_digests_and_one_inference_each(built: Path) -> None:
    claims = look(built / "pack", quick=True)
    assert [claim.what for claim in claims] == ["digests"] + ["inference"] * 4 and first_broken(claims) is None


def test_a_changed_byte_is_named_and_nothing_is_run_after_it(built: Path, tmp_path: Path) -> None:
    pack = copied(built, tmp_path)
    path = pack / "android" / "w8a8" / "model.tflite"
    path.write_bytes(path.read_bytes().replace(b"TFL3", b"TFL4"))
    (claim,) = look(pack)
    assert claim.holds is False and claim.what == "digest of android/w8a8/model.tflite"


def change_weight(path: Path) -> None:
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] += 0.25
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w"))
    onnx.save(model, path)


def forged_artifact(pack: Path) -> None:
    """The w8a8 artifact sold as the fp32 one."""
    shutil.copyfile(pack / "raspberry-pi-5" / "w8a8" / "model.onnx", pack / "raspberry-pi-5" / "fp32" / "model.onnx")
    settle(pack)


def forged_hub(pack: Path) -> None:
    change_weight(pack / "hub" / "fp32.onnx")
    settle(pack)


def forged_answers(pack: Path) -> None:
    """A reference that an artifact is nowhere near."""
    path = pack / "golden" / "reference.npz"
    save_arrays(path, {name: array * 1.5 for name, array in load_arrays(path).items()})
    settle(pack)


def forged_parity(pack: Path) -> None:
    def change(held: dict[str, object]) -> None:
        held["artifacts"][1]["parity"]["outputs"][0]["sqnr_db"] += 6  # type: ignore[index]

    settle(pack, change)


def forged_findings(pack: Path) -> None:
    def change(held: dict[str, object]) -> None:
        held["artifacts"][0]["findings"] = [{"level": "warning", "where": "conv", "message": "invented"}]  # type: ignore[index]

    settle(pack, change)


@pytest.mark.parametrize(
    ("forge", "subject", "what"),
    [
        (forged_artifact, "raspberry-pi-5 fp32", "rebuild"),
        (forged_hub, "hub w8a8", "rebuild"),
        (forged_answers, "raspberry-pi-5 fp32", "parity"),
        (forged_parity, "raspberry-pi-5 w8a8", "parity"),
        (forged_findings, "raspberry-pi-5 fp32", "lint"),
    ],
)
def test_a_forged_pack_whose_digests_are_right_is_found_out(
    forge: Callable[[Path], None], subject: str, what: str, built: Path, tmp_path: Path
) -> None:
    pack = copied(built, tmp_path)
    forge(pack)
    broken = first_broken(look(pack))
    assert broken is not None and (broken.subject, broken.what) == (subject, what), broken


def test_an_accuracy_that_the_data_do_not_give_is_found_out(built: Path, tmp_path: Path) -> None:
    pack = copied(built, tmp_path)

    def change(held: dict[str, object]) -> None:
        held["artifacts"][1]["accuracy"]["value"]["value"] -= 0.2  # type: ignore[index]

    settle(pack, change)
    broken = first_broken(look(pack, manifest=built / "data.toml"))
    assert broken is not None and (broken.subject, broken.what) == ("raspberry-pi-5 w8a8", "accuracy")


def test_data_it_was_not_built_on_are_found_out(built: Path, tmp_path: Path) -> None:
    for name in ("calibration.npz", "evaluation.npz", "data.toml"):
        shutil.copyfile(built / name, tmp_path / name)
    arrays = dict(np.load(tmp_path / "calibration.npz"))
    arrays["x"][0, 0, 0, 0, 0] += 1
    np.savez(tmp_path / "calibration.npz", **arrays)
    broken = first_broken(look(built / "pack", manifest=tmp_path / "data.toml"))
    assert broken is not None and (broken.subject, broken.what) == ("pack", "data")


def test_other_versions_make_a_difference_undecided_and_an_equality_still_proof(built: Path, tmp_path: Path) -> None:
    pack = copied(built, tmp_path)
    shutil.copyfile(pack / "raspberry-pi-5" / "w8a8" / "model.onnx", pack / "raspberry-pi-5" / "fp32" / "model.onnx")
    settle(pack, lambda held: held["versions"].update(onnx="0.0.1"))  # type: ignore[attr-defined]
    claims = {(claim.subject, claim.what): claim for claim in look(pack)}
    undecided, proof = claims["raspberry-pi-5 fp32", "rebuild"], claims["android fp32", "rebuild"]
    assert undecided.holds is None and "onnx 0.0.1 (here" in undecided.detail and proof.holds is True
    # The figures tell all the same.
    assert claims["raspberry-pi-5 fp32", "parity"].holds is False


def test_a_pack_that_does_not_say_how_it_was_built_is_refused_but_for_a_quick_look(built: Path, tmp_path: Path) -> None:
    pack = copied(built, tmp_path)
    settle(pack, lambda held: held.update(targets=[]))
    with pytest.raises(PackError, match="does not say how it was built -> next: build it again"):
        look(pack)
    assert first_broken(look(pack, quick=True)) is None
