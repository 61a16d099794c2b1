"""Keys: everything a result depends on is in them, nothing else is, and a change is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepack.converter import keys
from edgepack.converter.code import Code
from edgepack.converter.keys import KeyRecord, key_of
from edgepack.converter.step import Limits, Step

WORDS = st.text("abcdef", min_size=1, max_size=6)
DIGESTS = st.dictionaries(WORDS, st.text("0123456789abcdef", min_size=8, max_size=8), min_size=1, max_size=4)
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | WORDS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
PARAMETERS = st.dictionaries(WORDS, VALUES, min_size=1, max_size=4)
STEP = Step("a step", "tests.converter.sample_steps:write_number", {}, {"number": 1}, ("number.txt",))


@given(DIGESTS, PARAMETERS)
def test_order_limits_and_name_do_not_count(inputs: dict[str, str], parameters: dict[str, object]) -> None:
    step = replace(STEP, parameters=parameters)
    turned = replace(step, name="another", limits=Limits(7, 2**28), parameters=dict(reversed(parameters.items())))
    assert key_of(step, inputs, {}) == key_of(turned, dict(reversed(inputs.items())), {})


@given(DIGESTS, DIGESTS)
def test_other_inputs_are_another_key_and_equal_ones_the_same(first: dict[str, str], second: dict[str, str]) -> None:
    assert (key_of(STEP, first, {}).key == key_of(STEP, second, {}).key) == (first == second)


@given(PARAMETERS, PARAMETERS)
def test_other_parameters_are_another_key(first: dict[str, object], second: dict[str, object]) -> None:
    records = [key_of(replace(STEP, parameters=held), {}, {}) for held in (first, second)]
    assert (records[0].key == records[1].key) == (keys._text(first) == keys._text(second))


@given(DIGESTS, DIGESTS)
def test_files_that_are_read_besides_count(first: dict[str, str], second: dict[str, str]) -> None:
    reads = [{f"data {name}": digest for name, digest in held.items()} for held in (first, second)]
    assert (key_of(STEP, {}, reads[0]).key == key_of(STEP, {}, reads[1]).key) == (first == second)


def test_where_something_lies_does_not_count() -> None:
    step = replace(STEP, parameters={"student": "/here/model.onnx", "number": 1}, unkeyed=frozenset({"student"}))
    assert key_of(step, {}, {}) == key_of(replace(step, parameters={"student": "/there/model.onnx", "number": 1}), {}, {})


def test_outputs_and_function_count() -> None:
    others = replace(STEP, outputs=("other.txt",)), replace(STEP, function="tests.converter.sample_steps:double")
    held = {key_of(step, {}, {}).key for step in (STEP, *others)}
    assert len(held) == 3


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (Code((("edgepack/hub/canonical.py", "1"),), (("onnx", "1.23.2"),)), ["code edgepack/hub/canonical.py changed from 0 to 1"]),
        (Code((("edgepack/hub/canonical.py", "0"),), (("onnx", "1.24.0"),)), ["tool onnx changed from 1.23.2 to 1.24.0"]),
        (Code((), (("onnx", "1.23.2"),)), ["code edgepack/hub/canonical.py is gone"]),
    ],
)
def test_code_and_library_versions_count_and_are_named(changed: Code, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "code_of", lambda _: Code((("edgepack/hub/canonical.py", "0"),), (("onnx", "1.23.2"),)))
    before = key_of(STEP, {}, {})
    monkeypatch.setattr(keys, "code_of", lambda _: changed)
    after = key_of(STEP, {}, {})
    assert before.key != after.key and after.changes_since(before.parts) == words


def test_the_processor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(STEP, {}, {})
    monkeypatch.setattr(keys, "_host", lambda: "another machine")
    assert key_of(STEP, {}, {}).key != before.key


def test_data_are_named_before_tools() -> None:
    before = KeyRecord({"tool onnx": "1", "data a.jpg": "x", "parameter scheme": '"fp32"'})
    after = KeyRecord({"tool onnx": "2", "data a.jpg": "y", "parameter scheme": '"w8"'})
    assert [line.split()[0] for line in after.changes_since(before.parts)] == ["data", "parameter", "tool"]


def test_a_mapping_is_told_item_by_item() -> None:
    before, after = (
        key_of(replace(STEP, parameters={"demands": {"method": name, "targets": ["ios"]}}), {}, {}) for name in ("minmax", "mse")
    )
    assert after.changes_since(before.parts) == ['parameter demands.method changed from "minmax" to "mse"']


def test_parts_cannot_be_shifted_into_each_other() -> None:
    assert KeyRecord({"a": "bc"}).key != KeyRecord({"ab": "c"}).key


def test_the_place_of_an_input_does_not_count(tmp_path: Path) -> None:
    steps = [replace(STEP, inputs={"number": tmp_path / name}) for name in "ab"]
    assert key_of(steps[0], {"number": "0"}, {}) == key_of(steps[1], {"number": "0"}, {})
