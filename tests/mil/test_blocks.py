"""Control flow, lists and states: blocks among the values around them, and tensors that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.mil.environment import coremltools
from edgepack.mil.errors import MilError
from edgepack.mil.operation import MilOperation, TensorType, kernel_of
from edgepack.mil.program import Program

from .packages import builder, interpret, save_package

ONE = np.ones(1, np.float32)


def test_a_branch_reads_the_values_around_it_and_only_one_is_taken() -> None:
    def body(x: Any, y: Any) -> Any:
        doubled = builder().mul(x=x, y=np.float32(2))
        is_more = builder().greater(x=builder().squeeze(x=x), y=builder().squeeze(x=y))
        return builder().cond(
            pred=is_more,
            _true_fn=lambda: builder().add(x=doubled, y=y),
            _false_fn=lambda: builder().log(x=builder().sub(x=x, y=x), epsilon=np.float32(0)),
        )

    assert interpret(body, x=3 * ONE, y=ONE)[0].tolist() == [7]
    assert interpret(body, x=ONE, y=ONE)[0].tolist() == [-np.inf]


def test_a_loop_within_a_loop_counts_the_turns_of_both() -> None:
    """Triangle numbers: the inner loop adds as often as the outer one has turned; the value outside of both is still there after them."""

    def body(x: Any) -> Any:
        step = builder().add(x=builder().mul(x=x, y=np.float32(0)), y=np.float32(1))

        def turn(total: Any, count: Any) -> Any:
            def add(held: Any, left: Any) -> Any:
                return builder().add(x=held, y=step), builder().sub(x=left, y=step)

            more = builder().add(x=count, y=step)
            found, _ = builder().while_loop(
                _cond=lambda held, left: builder().greater(x=builder().squeeze(x=left), y=np.float32(0)), _body=add, loop_vars=(total, more)
            )
            return found, more

        total, count = builder().while_loop(
            _cond=lambda total, count: builder().less(x=builder().squeeze(x=count), y=builder().squeeze(x=x)),
            _body=turn,
            loop_vars=(np.zeros(1, np.float32), np.zeros(1, np.float32)),
        )
        return [total, count, builder().add(x=step, y=x)]

    assert [found.tolist() for found in interpret(body, x=4 * ONE)] == [[10], [4], [5]]


def test_values_within_a_loop_are_rounded_to_their_dtype() -> None:
    """2048 + 1 stays 2048 in fp16."""

    def body(x: Any) -> Any:
        half = builder().cast(x=x, dtype="fp16")
        found, _ = builder().while_loop(
            _cond=lambda held, count: builder().less(x=count, y=np.int32(3)),
            _body=lambda held, count: (builder().add(x=held, y=np.float16(1)), builder().add(x=count, y=np.int32(1))),
            loop_vars=(half, np.int32(0)),
        )
        return builder().cast(x=found, dtype="fp32")

    assert interpret(body, x=2046 * ONE)[0].tolist() == [2048]


def test_a_loop_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepack.mil.ops.control._MOST_TURNS", 5)

    def body(x: Any) -> Any:
        def stays(held: Any) -> Any:
            return builder().greater(x=builder().squeeze(x=held), y=np.float32(0))

        return builder().while_loop(_cond=stays, _body=lambda held: builder().relu(x=held), loop_vars=(x,))

    with pytest.raises(MilError, match="does not end within 5 turns"):
        interpret(body, x=ONE)


def test_a_list_grows_by_zeros_and_reads_what_was_written() -> None:
    def body(x: Any) -> Any:
        held = builder().list_write(ls=builder().make_list(init_length=1, elem_shape=(2,)), index=3, value=x)
        held = builder().list_scatter(ls=held, indices=[1, 0], value=np.array([[5, 6], [7, 8]], np.float32))
        return [builder().list_length(ls=held), builder().list_read(ls=held, index=3), builder().list_gather(ls=held, indices=[0, 2, 1])]

    length, last, gathered = interpret(body, x=np.array([1, 2], np.float32))
    assert (int(length), last.tolist(), gathered.tolist()) == (4, [1, 2], [[7, 8], [0, 0], [5, 6]])


def test_reading_outside_of_a_list_is_refused() -> None:
    def body(x: Any) -> Any:
        return builder().list_read(ls=builder().list_write(ls=builder().make_list(elem_shape=(1,)), index=0, value=x), index=2, name="odd")

    with pytest.raises(MilError, match="list_read 'odd' reads outside of a list of 1"):
        interpret(body, x=ONE)


def test_a_state_is_kept_from_run_to_run_and_new_without(tmp_path: Path) -> None:
    program = Program.load(_counting(tmp_path))
    assert [(held.name, held.dtype, held.shape) for held in program.states] == [("count", "float16", (2,))]
    assert [held.name for held in program.inputs] == ["x"]
    feed, states = {"x": np.array([1, 2], np.float16)}, program.new_states()
    assert [next(iter(program.run(feed, states).values())).tolist() for _ in range(3)] == [[1, 2], [2, 4], [3, 6]]
    assert next(iter(program.run(feed).values())).tolist() == [1, 2]


def _counting(folder: Path) -> Path:
    """A package that adds its input to its state and gives it."""
    ct = coremltools()
    from coremltools.converters.mil.mil import Function, types

    places = {
        "count": builder().state_tensor_placeholder(shape=(2,), dtype=types.fp16),
        "x": builder().placeholder(shape=(2,), dtype=types.fp16),
    }
    program = ct.converters.mil.mil.Program()
    with Function(places, opset_version=ct.target.iOS18) as function:
        held = builder().read_state(input=function.inputs["count"])
        found = builder().coreml_update_state(state=function.inputs["count"], value=builder().add(x=held, y=function.inputs["x"]))
        function.set_outputs([found])
    program.add_function("main", function)
    path = folder / "counting.mlpackage"
    ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True, package_dir=str(path))
    return path


def test_a_parameter_of_control_flow_that_is_not_known_is_refused() -> None:
    held = MilOperation("cond", "odd", {"pred": np.array(True), "hint": np.array(1)}, {"scope": ()}, (TensorType("y", "float32", ()),))
    with pytest.raises(MilError, match="'hint'"):
        kernel_of(held)


def test_a_default_epsilon_of_another_type_is_the_default(tmp_path: Path) -> None:
    """coremltools writes fp32's default beside fp16 statistics, and its own loader then refuses the package."""
    ones, x = np.ones(2, np.float16), np.array([[[0.0, 1.0], [2.0, 3.0]]], np.float16)
    path = save_package(lambda x: builder().batch_norm(x=x, mean=0 * ones, variance=0 * ones, gamma=ones / 64), {"x": x}, tmp_path)
    (found,) = Program.load(path).run({"x": x}).values()
    assert np.array_equal(found, (x.astype(np.float32) / 64 / np.sqrt(np.float32(1e-5))).astype(np.float16))
