"""Programs read back from disk: rounding, refusals, and what may be fed."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepack.mil.environment import coremltools
from edgepack.mil.errors import MilError
from edgepack.mil.operation import MilOperation, TensorType, implemented, kernel_of
from edgepack.mil.program import Program
from edgepack.mil.rounding import to_half

from .packages import builder, interpret, save_package

X = np.random.default_rng(2).normal(0, 1, (1, 4, 6, 5)).astype(np.float32)


def direct_convolution(x: Any, weight: Any, strides: tuple[int, int], dilations: tuple[int, int], groups: int) -> Any:
    """The definition, one output at a time, in float64; no padding."""
    kernel = weight.shape[2:]
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    out = [(size - span) // stride + 1 for size, span, stride in zip(x.shape[2:], reach, strides, strict=True)]
    found = np.zeros((1, weight.shape[0], *out))
    per_group, inputs = weight.shape[0] // groups, weight.shape[1]
    for channel, row, column in itertools.product(range(weight.shape[0]), *map(range, out)):
        first = channel // per_group * inputs
        for source, i, j in itertools.product(range(inputs), *map(range, kernel)):
            pixel = x[0, first + source, row * strides[0] + i * dilations[0], column * strides[1] + j * dilations[1]]
            found[0, channel, row, column] += float(pixel) * float(weight[channel, source, i, j])
    return found


@pytest.mark.parametrize(("groups", "outputs"), [(1, 3), (2, 6), (4, 4), (4, 8)])
@pytest.mark.parametrize(("strides", "dilations"), [((1, 1), (1, 1)), ((2, 1), (1, 2))])
def test_conv_equals_its_definition(groups: int, outputs: int, strides: tuple[int, int], dilations: tuple[int, int]) -> None:
    weight = np.random.default_rng(3).normal(0, 1, (outputs, 4 // groups, 3, 2)).astype(np.float32)

    def body(x: Any) -> Any:
        return builder().conv(x=x, weight=weight, strides=list(strides), dilations=list(dilations), groups=groups)

    # 24 products of a size around 1, each rounded to 24 bits: 24 * 2^-24 * 8.
    np.testing.assert_allclose(interpret(body, x=X)[0], direct_convolution(X, weight, strides, dilations, groups), atol=1.2e-5, rtol=0)


def test_every_fp16_result_is_rounded_to_fp16() -> None:
    def body(x: Any) -> Any:
        half = builder().cast(x=x, dtype="fp16")
        third = builder().real_div(x=half, y=np.float16(3))
        return builder().cast(x=builder().mul(x=third, y=np.float16(3)), dtype="fp32")

    x = np.array([[1.0, 0.1, 1000.7, 7e4]], np.float32)
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    want = ((half / np.float16(3)).astype(np.float16) * np.float16(3)).astype(np.float16).astype(np.float32)
    found = interpret(body, x=x)[0]
    assert np.array_equal(found, want)
    assert np.isinf(found[0, 3])


def test_fp16_sums_accumulate_in_float32() -> None:
    """4096 ones: a running fp16 sum would stop at 2048."""

    def body(x: Any) -> Any:
        half = builder().cast(x=x, dtype="fp16")
        return builder().cast(x=builder().linear(x=half, weight=np.ones((1, 4096), np.float16)), dtype="fp32")

    assert interpret(body, x=np.ones((1, 4096), np.float32))[0].tolist() == [[4096.0]]


def test_fp16_inputs_are_computed_with_as_any_fp16_value() -> None:
    """A matrix product of 4096 ones that enter as fp16, which would stop at 2048 if it were summed in fp16."""
    found = interpret(
        lambda x: builder().cast(x=builder().matmul(x=x, y=np.ones((4096, 1), np.float16)), dtype="fp32"), x=np.ones((1, 4096), np.float16)
    )
    assert found[0].tolist() == [[4096.0]]


def test_constants_joined_to_values_are_kept() -> None:
    found = interpret(lambda x: builder().concat(values=[x, np.array([[9]], np.float32), x], axis=1), x=np.array([[1, 2]], np.float32))
    assert found[0].tolist() == [[1, 2, 9, 1, 2]]


def test_an_unknown_operation_is_refused_with_its_name() -> None:
    held = MilOperation("dream", "running", {}, {"x": ("x",)}, (TensorType("y", "float32", (2,)),))
    with pytest.raises(MilError, match="dream 'running' is not implemented"):
        kernel_of(held)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (lambda x: builder().resize(x=x, shape=[4, 6, 5], resized_dims=np.uint32(3), name="odd"), "other than two dimensions"),
        (lambda x: builder().random_normal(shape=[2], name="odd"), "draws random numbers"),
        (lambda x: builder().upsample_bilinear(x=x, align_corners=True, half_pixel_centers=True, name="odd"), "half_pixel_centers"),
    ],
)
def test_a_form_that_is_not_known_is_refused(body: Any, cause: str, tmp_path: Path) -> None:
    with pytest.raises(MilError, match=cause) as refusal:
        Program.load(save_package(body, {"x": X}, tmp_path))
    assert "'odd'" in refusal.value.cause


@pytest.mark.parametrize("parameter", ["weight", "begin"])
def test_a_parameter_computed_at_run_time_equals_the_constant(parameter: str) -> None:
    bodies: dict[str, Any] = {
        "weight": lambda x, y: builder().conv(x=x, weight=y, strides=[2, 1]),
        "begin": lambda x, y: builder().slice_by_size(x=x, begin=builder().cast(x=y, dtype="int32"), size=[1, -1, 2, 3]),
    }
    held = {"weight": np.arange(16, dtype=np.float32).reshape(2, 4, 1, 2), "begin": np.array([0, 1, 3, 2], np.float32)}[parameter]
    (found,) = interpret(bodies[parameter], x=X, y=held)
    want = direct_convolution(X, held, (2, 1), (1, 1), 1) if parameter == "weight" else X[:, 1:, 3:5, 2:5]
    np.testing.assert_allclose(found, want, atol=2e-5, rtol=0)


def test_a_parameter_that_may_not_be_computed_at_run_time_is_refused_not_ignored() -> None:
    held = MilOperation("layer_norm", "odd", {"axes": np.array([1])}, {"x": ("x",), "gamma": ("y",)}, (TensorType("z", "float32", (2, 3)),))
    with pytest.raises(MilError, match="layer_norm 'odd' has a 'gamma' that is computed at run time"):
        kernel_of(held)


def test_an_index_that_core_ml_leaves_undefined_is_refused(tmp_path: Path) -> None:
    path = save_package(lambda x, i: builder().gather(x=x, indices=i, axis=1, name="pick"), {"x": X, "i": np.zeros(2, np.int32)}, tmp_path)
    program = Program.load(path)
    assert np.array_equal(next(iter(program.run({"x": X, "i": np.array([3, 0], np.int32)}).values())), X[:, [3, 0]])
    for outside in (-1, 4):
        with pytest.raises(MilError, match=r"gather 'pick' takes an index outside \[0, 3\]"):
            program.run({"x": X, "i": np.array([0, outside], np.int32)})


def test_a_negative_fraction_of_integers_is_refused_and_a_positive_one_truncated(tmp_path: Path) -> None:
    numbers = {"x": np.array([7, 6], np.int32), "y": np.array([4, 3], np.int32)}
    program = Program.load(save_package(lambda x, y: builder().real_div(x=x, y=y), numbers, tmp_path))
    assert next(iter(program.run(numbers).values())).tolist() == [1, 2]
    with pytest.raises(MilError, match="negative fraction"):
        program.run({"x": -numbers["x"], "y": numbers["y"]})


@given(hnp.arrays(np.uint32, st.integers(1, 40)))
def test_rounding_to_half_equals_numpys_casts(bits: Any) -> None:
    source = bits.view(np.float32)
    with np.errstate(all="ignore"):
        want = source.astype(np.float16).astype(np.float32)
        assert np.array_equal(to_half(source), want, equal_nan=True)


def test_rounding_to_half_equals_numpys_casts_around_every_half() -> None:
    """All 65,536 halves, the points between them, and their float32 neighbours."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        middles = (halves + np.nextafter(halves.astype(np.float16), np.float16(np.inf)).astype(np.float32)) / 2
        for points in (halves, middles):
            for near in (points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))):
                want = near.astype(np.float16).astype(np.float32)
                assert np.array_equal(to_half(near).view(np.uint32)[~np.isnan(near)], want.view(np.uint32)[~np.isnan(near)])
                assert np.isnan(to_half(near)[np.isnan(near)]).all()
    assert to_half(np.float32(0.1) * np.ones(())).shape == ()


def test_feeds_are_checked(tmp_path: Path) -> None:
    program = Program.load(save_package(lambda x: builder().relu(x=x), {"x": X}, tmp_path))
    assert [(held.name, held.dtype, held.shape) for held in program.inputs] == [("x", "float32", X.shape)]
    with pytest.raises(MilError, match="input 'x' is missing"):
        program.run({})
    with pytest.raises(MilError, match="no input 'y'"):
        program.run({"x": X, "y": X})
    with pytest.raises(MilError, match=r"float32 \(1, 4, 6\)"):
        program.run({"x": X[..., 0]})
    with pytest.raises(MilError, match="complex"):
        program.run({"x": X.astype(np.complex64)})


def test_a_second_run_does_not_see_the_first(tmp_path: Path) -> None:
    program = Program.load(save_package(lambda x: builder().avg_pool(x=x, kernel_sizes=[2, 2], pad_type="valid"), {"x": X}, tmp_path))
    (first,), _ = program.run({"x": X}).values(), program.run({"x": -X})
    (again,) = program.run({"x": X}).values()
    assert np.array_equal(first, again)


def test_a_classifier_is_refused(tmp_path: Path) -> None:
    ct = coremltools()
    from coremltools.converters.mil.mil import Function

    program = ct.converters.mil.mil.Program()
    with Function({"x": builder().placeholder(shape=(1, 2))}, opset_version=ct.target.iOS17) as function:
        function.set_outputs([builder().softmax(x=function.inputs["x"])])
    program.add_function("main", function)
    path, labels = tmp_path / "classifier.mlpackage", ct.ClassifierConfig(["cat", "dog"])
    ct.convert(program, minimum_deployment_target=ct.target.iOS17, classifier_config=labels, skip_model_load=True, package_dir=str(path))
    with pytest.raises(MilError, match="a dictionary, as of a classifier"):
        Program.load(path)


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MilError, match=r"absent\.mlpackage"):
        Program.load(tmp_path / "absent.mlpackage")


def test_importing_the_interpreter_imports_no_framework() -> None:
    script = "import sys, edgepack.mil.program, edgepack.mil.ops; assert not {'coremltools', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_coremltools_is_imported_without_torch_and_without_a_word() -> None:
    script = "import sys; from edgepack.mil.environment import coremltools; coremltools(); assert 'torch' not in sys.modules; import torch"
    said = subprocess.run([sys.executable, "-c", script], check=True, timeout=120, capture_output=True)
    assert (said.stdout, said.stderr) == (b"", b"")


def test_the_table_of_operations_is_not_empty_after_import() -> None:
    import edgepack.mil.ops  # noqa: F401

    assert {"conv", "linear", "quantize", "dequantize", "resize_bilinear"} <= set(implemented())
