"""One package for a range of sizes: it answers as ONNX Runtime at every size, and what no rule explains is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgepack.backends import coreml
from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml.probes import Measure, line_through
from edgepack.backends.table import BackendError
from edgepack.inspection.coreml_file import inspect
from edgepack.mil.environment import coremltools
from edgepack.mil.errors import MilError
from edgepack.mil.program import Program

from .flexible_models import hub_of, opened

node = helper.make_node
Case = tuple[list[onnx.NodeProto], dict[str, Sequence[int | str]], dict[str, object], tuple[int | str, ...]]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


def size_of(value: str, axis: int) -> list[onnx.NodeProto]:
    """Nodes that give the size of a value along an axis as "size" (a vector), with the constants "axis" and "after"."""
    return [node("Shape", [value], ["shape"]), node("Slice", ["shape", "axis", "after"], ["size"])]


# What each rule is for: nodes, inputs, constants, and the shape that the description tells of the output.
CASES: dict[str, Case] = {
    "what is left of a reshape": ([node("Reshape", ["x", "to"], ["y"])], {"x": ["batch", "n", 6]}, {"to": [-1, 6]}, ("n*batch", 6)),
    "a reshape of two open sizes": (
        [node("Reshape", ["x", "to"], ["r"]), node("Transpose", ["r"], ["y"], perm=[0, 2, 1, 3])],
        {"x": ["batch", "n", 6]},
        {"to": [0, 0, 2, 3]},
        ("batch", 2, "n", 3),
    ),
    "a reshape that leaves one size open itself": (
        [node("GroupNormalization", ["x", "scale", "bias"], ["y"], num_groups=2)],
        {"x": ["batch", 4, "n"]},
        {"scale": normal(4), "bias": normal(4)},
        ("batch", 4, "n"),
    ),
    "the rest of an axis": (
        [node("Slice", ["x", "from", "to", "along", "step"], ["y"])],
        {"x": [1, "n", 6]},
        {"from": [0], "to": [2**31], "along": [1], "step": [2]},
        (1, "?", 6),
    ),
    "up to one distance from the end": (
        [node("Slice", ["x", "from", "to", "along"], ["y"])],
        {"x": ["batch", "n", 6]},
        {"from": [0], "to": [-1], "along": [2]},
        ("batch", "n", 5),
    ),
    "from one distance from the end": (
        [node("Pad", ["x", "around"], ["p"]), node("Slice", ["p", "from", "to", "along"], ["y"])],
        {"x": [1, "n", 6]},
        {"around": [0, 3, 0, 0, 0, 0], "from": [-3], "to": [-1], "along": [1]},
        (1, 2, 6),
    ),
    "the last element": ([node("Gather", ["x", "last"], ["y"], axis=1)], {"x": [1, "n", 6]}, {"last": np.asarray(-1)}, (1, 6)),
    "repeated to an open size": (
        [
            *size_of("x", 0),
            node("Concat", ["size", "rest"], ["to"], axis=0),
            node("Expand", ["token", "to"], ["e"]),
            node("ReduceMean", ["x", "along"], ["mean"]),
            node("Mul", ["e", "mean"], ["t"]),
            node("Concat", ["t", "x"], ["y"], axis=1),
        ],
        {"x": ["batch", 4, 6]},
        {"axis": [0], "after": [1], "rest": [1, 6], "token": normal(1, 1, 6), "along": [1]},
        ("batch", 5, 6),
    ),
    "the leading part of a table": (
        [*size_of("x", 1), node("Slice", ["table", "axis0", "size", "axis"], ["part"]), node("Add", ["x", "part"], ["y"])],
        {"x": ["batch", "n", 6]},
        {"axis": [1], "after": [2], "axis0": [0], "table": normal(1, 40, 6)},
        ("batch", "n", 6),
    ),
    "the leading part of a mask, along two axes": ([node("Trilu", ["x"], ["y"], upper=0)], {"x": [1, "n", "n"]}, {}, (1, "n", "n")),
    "a bilinear resize by a factor": (
        [node("Resize", ["x", "", "scales"], ["y"], mode="linear")],
        {"x": [1, 3, "n", 8]},
        {"scales": np.float32([1, 1, 2, 2])},
        (1, 3, "2*n", 16),
    ),
    "a bilinear resize to what was before": (
        [
            node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Conv", ["c", "v"], ["d"], strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Shape", ["c"], ["s"]),
            node("Resize", ["d", "", "", "s"], ["y"], mode="linear"),
        ],
        {"x": [1, 3, "n", "m"]},
        {"w": normal(4, 3, 3, 3), "v": normal(4, 4, 3, 3)},
        (1, 4, "?", "?"),
    ),
    "products of open matrices": (
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["s"]), node("Softmax", ["s"], ["y"])],
        {"x": ["batch", "n", 6]},
        {},
        ("batch", "n", "n"),
    ),
    "a recurrent layer that is one operation": (
        [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=3)],
        {"x": ["n", 1, 6]},
        {"w": normal(1, 12, 6), "r": normal(1, 12, 3)},
        ("n", 1, 1, 3),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_package_for_open_sizes_answers_as_onnxruntime_at_each(name: str, tmp_path: Path) -> None:
    nodes, inputs, constants, shape = CASES[name]
    found = opened(hub_of(nodes, inputs, constants), tmp_path)
    # fp32 sums of at most 54 terms in another order: 54 * 2^-24, and a transcendental's last bits.
    assert max(found.differences()) < 2e-5
    assert found.description.outputs[0].shape == shape
    assert coreml.lint(found.package) == []


REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, Sequence[int | str]], dict[str, object], str]] = {
    "a number that is not whole": (
        [*size_of("x", 1), node("Cast", ["size"], ["f"], to=1), node("Div", ["x", "f"], ["y"])],
        {"x": [1, "n", 6]},
        {"axis": [1], "after": [2]},
        "real_div 'y' has a constant y whose numbers differ",
    ),
    "another number of steps": (
        [node("GRU", ["x", "w", "r"], ["y"], hidden_size=3, linear_before_reset=1)],
        {"x": ["n", 1, 6]},
        {"w": normal(1, 9, 6), "r": normal(1, 9, 3)},
        "at n ",
    ),
    "padding that depends on what is left over": (
        [node("MaxPool", ["x"], ["y"], kernel_shape=[3], strides=[2], ceil_mode=1)],
        {"x": [1, 4, "n"]},
        {},
        "has a pad that does not follow from the sizes",
    ),
    "nothing left at the smallest size": (
        [node("Slice", ["x", "from", "to", "along"], ["y"])],
        {"x": [1, "n", 6]},
        {"from": [1], "to": [2**31], "along": [1]},
        "slice_by_index 'y' gives nothing along axis 1 at n 1",
    ),
    "indices that are no leading part": (
        [node("Pad", ["x", "around"], ["y"], mode="edge")],
        {"x": ["n", 1, 6]},
        {"around": [2, 0, 0, 2, 0, 0]},
        "constant indices that is no leading part",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_follow_from_the_sizes_is_refused_with_the_operation(name: str, tmp_path: Path) -> None:
    nodes, inputs, constants, cause = REFUSED[name]
    with pytest.raises(BackendError, match=cause) as caught:
        opened(hub_of(nodes, inputs, constants), tmp_path)
    assert "leave it out of the student's sizes" in caught.value.hint
    assert not (tmp_path / "out").exists()


def network(folder: Path, scheme: str = "fp32", minimum_os: str = "", **options: object) -> Path:
    """A package (1, 3, n, 8) -> (1, 4, n, 8)."""
    hub = hub_of([node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], {"x": [1, 3, "n", 8]}, {"w": normal(4, 3, 3, 3)})
    return opened(hub, folder, WriteOptions(scheme=scheme, minimum_os=minimum_os, **options)).package  # type: ignore[arg-type]


def test_the_package_declares_what_coremltools_own_conversion_does(tmp_path: Path) -> None:
    ct = coremltools()
    from coremltools.converters.mil.mil import Builder, Function, Program, get_new_symbol, types

    program = Program()
    with Function({"x": Builder.placeholder((1, 3, get_new_symbol(), 8), types.fp32)}, opset_version=ct.target.iOS17) as function:
        function.set_outputs(
            [Builder.conv(x=function.inputs["x"], weight=normal(4, 3, 3, 3), pad_type="custom", pad=[1, 1, 1, 1], name="y")]
        )
    program.add_function("main", function)
    shape = ct.Shape([1, 3, ct.RangeDim(1, 40, default=12), 8])
    converted = ct.convert(
        program,
        convert_to="mlprogram",
        inputs=[ct.TensorType("x", shape)],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    ).get_spec()
    ours = ct.utils.load_spec(str(network(tmp_path)))
    assert list(ours.description.input) == list(converted.description.input)
    assert list(ours.description.output) == list(converted.description.output)
    main, theirs = (spec.mlProgram.functions["main"] for spec in (ours, converted))
    assert list(main.inputs) == list(theirs.inputs)
    assert [held.outputs[0].type for held in _of_type(main, "conv")] == [held.outputs[0].type for held in _of_type(theirs, "conv")]


def _of_type(function: object, kind: str) -> list[object]:
    (block,) = function.block_specializations.values()  # type: ignore[attr-defined]
    return [held for held in block.operations if held.type == kind]


def test_a_size_outside_the_range_is_refused_and_the_range_told(tmp_path: Path) -> None:
    program = Program.load(network(tmp_path))
    assert program.run({"x": normal(1, 3, 40, 8)})["y"].shape == (1, 4, 40, 8)
    with pytest.raises(MilError, match=r"takes float32 \(1, 3, 1 to 40, 8\)"):
        program.run({"x": normal(1, 3, 41, 8)})
    with pytest.raises(MilError, match=r"takes float32 \(1, 3, 1 to 40, 8\)"):
        program.run({"x": normal(1, 3, 12, 9)})


def test_the_same_hub_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (network(_new(tmp_path / name)) for name in ("first", "second"))
    files = [file.relative_to(first) for file in first.rglob("*") if file.is_file()]
    assert files and all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_an_image_of_open_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="is to be an image, and its shape"):
        network(tmp_path, image_inputs={"x": "RGB"})


def test_a_computed_resize_needs_ios_17(tmp_path: Path) -> None:
    nodes, inputs, constants, _ = CASES["a bilinear resize by a factor"]
    with pytest.raises(BackendError, match="resize_bilinear 'y' does not take an open size"):
        opened(hub_of(nodes, inputs, constants), tmp_path, WriteOptions(scheme="fp32", minimum_os="iOS16"))


def test_the_lint_reads_ranges(tmp_path: Path) -> None:
    path = network(tmp_path)
    held = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = coremltools().utils.load_spec(str(path))
    array = spec.description.input[0].type.multiArrayType

    def found() -> str:
        held.write_bytes(spec.SerializeToString())
        return "; ".join(f"{finding.where} {finding.message}" for finding in coreml.lint(path))

    array.shape[2] = 41
    assert "x has a default of 41 along axis 2, outside 1 to 40" in found()
    array.shape[2] = 12
    array.shapeRange.sizeRanges[2].upperBound = -1
    assert "x takes sizes 1 to -1 along axis 2" in found()
    array.shapeRange.sizeRanges[2].upperBound = 40
    array.shapeRange.sizeRanges[3].upperBound = 9
    assert "x takes sizes 8 to 9 along axis 3, the program 8" in found()
    del array.shapeRange.sizeRanges[3]
    assert "x takes sizes for 3 dimensions, its default has 4" in found()


def test_listed_shapes_are_those_the_interpreter_takes(tmp_path: Path) -> None:
    path = network(tmp_path)
    spec = coremltools().utils.load_spec(str(path))
    array = spec.description.input[0].type.multiArrayType
    array.ClearField("shapeRange")
    for size in (12, 24):
        array.enumeratedShapes.shapes.add().shape.extend([1, 3, size, 8])
    (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(spec.SerializeToString())
    assert coreml.lint(path) == []
    program = Program.load(path)
    assert program.run({"x": normal(1, 3, 24, 8)})["y"].shape == (1, 4, 24, 8)
    with pytest.raises(MilError, match=r"takes float32 \(1, 3, 12, 8\) or \(1, 3, 24, 8\)"):
        program.run({"x": normal(1, 3, 13, 8)})


@given(st.integers(-9, 9).filter(bool), st.integers(-99, 99), st.lists(st.integers(1, 999), min_size=3, max_size=9, unique=True))
def test_a_line_through_three_sizes_is_found(factor: int, offset: int, sizes: list[int]) -> None:
    line = line_through([factor * size + offset for size in sizes], [Measure(tuple(sizes), ("n",))])
    assert line is not None and (line.factor, line.offset) == (factor, offset)


@given(st.lists(st.integers(1, 999), min_size=2, max_size=9, unique=True), st.data())
def test_no_line_goes_through_a_size_that_is_off_or_through_two_alone(sizes: list[int], data: st.DataObject) -> None:
    values = [3 * size for size in sizes]
    assert len(sizes) > 2 or line_through(values, [Measure(tuple(sizes), ("n",))]) is None
    if len(sizes) > 3:
        values[data.draw(st.integers(0, len(sizes) - 1))] += data.draw(st.integers(1, 99))
        assert line_through(values, [Measure(tuple(sizes), ("n",))]) is None


def test_inspection_tells_the_range_and_counts_no_work_of_open_size(tmp_path: Path) -> None:
    facts = inspect(network(tmp_path))
    assert [(held.shape, held.note) for held in facts.inputs] == [((1, 3, 12, 8), "takes (1, 3, 1 to 40, 8)")]
    assert [(held.shape, held.note) for held in facts.outputs] == [((), "sizes known when it runs")]
    assert (facts.macs, facts.not_counted) == (0, ("conv 'y' of open size",))
