"""ONNX Runtime artifacts: the hub itself, bit for bit; what does not load is refused; what stays in float is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.ort.write import lint, obstacles, write
from edgepack.backends.table import BackendError
from tests.backends.ort import models

OPTIONS = WriteOptions("fp32", name="cats", licence="MIT", labels=("cat", "dog"))


def initializers(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in held.items()}


@pytest.mark.parametrize("quantized", [False, True])
def test_the_artifact_holds_the_hubs_graph_and_numbers_bit_for_bit(quantized: bool, tmp_path: Path) -> None:
    hub = models.quantized_conv(tmp_path / "hub.onnx", 0) if quantized else models.real_conv(tmp_path / "hub.onnx")
    description = write(hub, tmp_path, OPTIONS)
    artifact = tmp_path / description.file
    assert initializers(artifact) == initializers(hub) != {}
    assert onnx.load(artifact).graph.SerializeToString(deterministic=True) == onnx.load(hub).graph.SerializeToString(deterministic=True)


def test_name_licence_scheme_and_labels_are_in_the_file_and_a_second_write_gives_the_same_bytes(tmp_path: Path) -> None:
    hub = models.real_conv(tmp_path / "hub.onnx")
    write(hub, tmp_path, OPTIONS)
    first = (tmp_path / "model.onnx").read_bytes()
    facts = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert facts == {"name": "cats", "licence": "MIT", "scheme": "fp32", "labels": "cat\ndog"}
    write(hub, tmp_path, OPTIONS)
    assert (tmp_path / "model.onnx").read_bytes() == first


def test_the_description_says_names_types_and_symbolic_sizes(tmp_path: Path) -> None:
    description = write(models.real_conv(tmp_path / "hub.onnx", batch="batch"), tmp_path, OPTIONS)
    (x,), (y,) = description.inputs, description.outputs
    assert (x.name, x.hub_name, x.dtype, x.shape, x.permutation) == ("x", "x", "float32", ("batch", 3, 8, 8), ())
    assert (y.name, y.shape, description.runner) == ("y", ("batch", 4, 8, 8), "ort")


def test_an_operator_that_onnxruntime_lacks_is_an_obstacle_and_nothing_is_written(tmp_path: Path) -> None:
    hub = models.unknown_operator(tmp_path / "hub.onnx")
    (found,) = obstacles(hub)
    assert "Wavelet" in found.cause and found.hint and found.backend == "ort"
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BackendError, match=r"onnxruntime cannot load it .*Wavelet.* -> next: "):
        write(hub, out, OPTIONS)
    assert not list(out.iterdir())


def test_a_model_that_loads_has_no_obstacle(tmp_path: Path) -> None:
    assert obstacles(models.real_conv(tmp_path / "hub.onnx")) == []


def test_a_file_that_is_no_model_is_an_obstacle(tmp_path: Path) -> None:
    (tmp_path / "hub.onnx").write_bytes(b"no model")
    assert "onnxruntime cannot load it" in obstacles(tmp_path / "hub.onnx")[0].cause


def test_weights_beside_the_model_are_found(tmp_path: Path) -> None:
    proto = onnx.load(models.real_conv(tmp_path / "inline.onnx"))
    external = tmp_path / "external.onnx"
    onnx.save(proto, external, save_as_external_data=True, location="external.data", size_threshold=0)
    assert obstacles(external) == []
    write(external, tmp_path, OPTIONS)
    assert initializers(tmp_path / "model.onnx") == initializers(tmp_path / "inline.onnx")


def test_lint_is_silent_when_onnxruntime_runs_every_layer_on_codes(tmp_path: Path) -> None:
    assert lint(models.quantized_conv(tmp_path / "model.onnx", relu_zero_point=0)) == []


def test_lint_names_a_conv_that_stays_in_float_because_its_relus_zero_point_is_not_the_minimum(tmp_path: Path) -> None:
    (found,) = lint(models.quantized_conv(tmp_path / "model.onnx", relu_zero_point=10))
    assert (found.level, found.where) == ("warning", "conv_1") and "in float" in found.message


def test_lint_says_nothing_of_a_model_that_is_real_on_purpose(tmp_path: Path) -> None:
    assert lint(models.real_conv(tmp_path / "model.onnx")) == []


def test_a_bias_of_any_bit_pattern_was_written_so_the_comparison_above_means_something(tmp_path: Path) -> None:
    bias = numpy_helper.to_array(onnx.load(models.real_conv(tmp_path / "hub.onnx")).graph.initializer[1])
    assert np.isnan(bias[1]) and np.signbit(bias[2])
