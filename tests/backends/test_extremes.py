"""Where the largest and the smallest whole number lies: the first of equals, as ONNX has it, in both formats."""

from pathlib import Path

import numpy as np
import pytest

from edgepack.hub.canonical import run_plain
from tests.backends.both_formats import FORMATS, artifact_outputs, one_node


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize(("axis", "keepdims"), [(1, 1), (-1, 0)])
def test_the_first_of_equal_whole_numbers_is_named(operator: str, axis: int, keepdims: int, format_name: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(-2, 3, (3, 7, 5)).astype(np.int32)
    x[0, 0] = [np.iinfo(np.int32).min, np.iinfo(np.int32).max, -1, np.iinfo(np.int32).max, np.iinfo(np.int32).min]
    model = one_node(operator, {"x": x}, axis=axis, keepdims=keepdims)
    wanted = run_plain(model, {"x": x})["y"]
    found = artifact_outputs(model, {"x": x}, format_name, tmp_path)["y"]
    np.testing.assert_array_equal(found, wanted)
