"""The lint, on packages made with coremltools directly to break one rule each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.backends.coreml import lint
from edgepack.mil.environment import coremltools

Body = Callable[[Any, Any], Any]


def package(folder: Path, body: Body, shape: Sequence[int] = (1, 2, 3), ios: int = 17) -> Path:
    """A package whose function applies ``body(builder, x)``, saved without any pass."""
    ct = coremltools()
    from coremltools.converters.mil.mil import Builder, Function, Program, types

    program = Program()
    target = getattr(ct.target, f"iOS{ios}")
    with Function({"x": Builder.placeholder(shape=shape, dtype=types.fp32)}, opset_version=target) as function:
        function.set_outputs([body(Builder, function.inputs["x"])])
    program.add_function("main", function)
    ct.convert(
        program,
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
        package_dir=str(folder / "m.mlpackage"),
    )
    return folder / "m.mlpackage"


def messages(path: Path) -> list[str]:
    findings = lint(path)
    assert all(finding.level == "error" for finding in findings)
    return [finding.message for finding in findings]


def test_rank_above_five(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coremltools()
    from coremltools.converters.mil.mil import Program

    # coremltools checks this too; without it, it would not save such a package.
    monkeypatch.setattr(Program, "_check_early_error_out_for_invalid_program", lambda program: None)

    def body(builder: Any, x: Any) -> Any:
        return builder.reshape(x=builder.reshape(x=x, shape=[1, 1, 1, 1, 2, 3]), shape=[6])

    assert messages(package(tmp_path, body)) == ["rank 6 is above 5"]


def test_constants_that_are_not_finite(tmp_path: Path) -> None:
    found = messages(package(tmp_path, lambda builder, x: builder.add(x=x, y=np.array([0, np.inf, np.nan], np.float32))))
    assert found == ["constant holds NaN or infinity"]


def test_an_operator_newer_than_the_package(tmp_path: Path) -> None:
    """The opset is lowered after saving, as a hand-edited package would have it."""
    ct = coremltools()

    def body(builder: Any, x: Any) -> Any:
        codes = builder.quantize(input=x, scale=np.float32(0.5), output_dtype="int8")
        return builder.dequantize(input=codes, scale=np.float32(0.5))

    path = package(tmp_path, body)
    assert messages(path) == []
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = ct.utils.load_spec(str(file))
    function = spec.mlProgram.functions["main"]
    function.block_specializations["CoreML6"].CopyFrom(function.block_specializations["CoreML7"])
    del function.block_specializations["CoreML7"]
    function.opset, spec.specificationVersion = "CoreML6", 7
    file.write_bytes(spec.SerializeToString())
    assert any("CoreML6" in message or "iOS16" in message or "opset" in message for message in messages(path))


def test_features_of_another_type(tmp_path: Path) -> None:
    ct = coremltools()
    path = package(tmp_path, lambda builder, x: builder.relu(x=x))
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = ct.utils.load_spec(str(file))
    spec.description.output[0].type.multiArrayType.dataType = ct.proto.FeatureTypes_pb2.ArrayFeatureType.DOUBLE
    file.write_bytes(spec.SerializeToString())
    assert messages(path) == ["input or output of type DOUBLE is not accepted by this package's system version"]


@pytest.mark.parametrize(("indices", "ios", "count"), [([0, 2], 17, 0), ([-1], 17, 1), ([-1], 16, 0), ([3], 16, 1)])
def test_indices_that_core_ml_does_not_define(indices: list[int], ios: int, count: int, tmp_path: Path) -> None:
    """iOS17/scatter_gather.py: from iOS 17 on negative indices are out of bounds."""
    path = package(tmp_path, lambda builder, x: builder.gather(x=x, indices=np.array(indices, np.int32), axis=2), ios=ios)
    found = messages(path)
    assert len(found) == count
    assert all("from 3 elements" in message for message in found)


@pytest.mark.parametrize(
    ("pad", "mode", "count"),
    [([1, 1, 2, 2], "reflect", 0), ([0, 0, 3, 0], "reflect", 1), ([0, 0, 3, 0], "replicate", 0), ([1, 0, 0, 0, 0, 0], "replicate", 1)],
)
def test_mirrors_beyond_the_image_or_the_last_two_dimensions(pad: list[int], mode: str, count: int, tmp_path: Path) -> None:
    found = messages(package(tmp_path, lambda builder, x: builder.pad(x=x, pad=pad, mode=mode)))
    assert len(found) == count
    assert all(mode in message for message in found)


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_what_is_no_package_is_a_finding(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    if content is not None:
        (path / "Data" / "com.apple.CoreML").mkdir(parents=True)
        (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(content)
    (found,) = lint(path)
    assert (found.level, found.where) == ("error", "m.mlpackage")
