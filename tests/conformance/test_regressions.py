"""What the node suite found, each as the smallest model that shows it."""

from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from edgepack.backends.table import BackendError
from edgepack.backends.tflite.layout import Layout, regroup
from tests.backends.tflite.models import Hub, both, convert, node, single

RNG = np.random.default_rng(5)
X, Y = RNG.standard_normal((3, 5)).astype(np.float32), RNG.standard_normal((5, 4)).astype(np.float32)

RIGHT = {
    "alpha_of_activations": single("Gemm", X, Y, alpha=0.5),
    "alpha_and_beta_of_activations": single("Gemm", X, Y, RNG.standard_normal(4).astype(np.float32), alpha=-0.25, beta=0.35),
    "alpha_before_a_fused_relu": Hub([node("Gemm", "a b", "c", alpha=-2.0), node("Relu", "c", "y", name="relu")], {"a": X, "b": Y}, {}),
    "whole_exponents": single("Pow", X, np.arange(5, dtype=np.int64)),
    "whole_exponents_as_weight": single("Pow", X, weights={"e": np.arange(5, dtype=np.int32)}),
    "mish_far_below_zero": single("Mish", np.linspace(-12, 25, 75, dtype=np.float32)),
    "scalar_input": single("Add", X, np.asarray(2, np.float32)),
    "maximum_of_bool": Hub([node("ReduceMax", "x axes")], {"x": X > 0}, {"axes": np.asarray([1])}, {"y": np.bool_}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_tflite_equals_onnxruntime(name: str, tmp_path: Path) -> None:
    ours, reference = both(RIGHT[name], tmp_path)
    np.testing.assert_allclose(ours["y"], reference["y"], rtol=2e-5, atol=5e-5)


REFUSED = {
    "power_of_int32_by_reals": (
        Hub([node("Pow", "x e")], {"x": np.arange(6, dtype=np.int32)}, {"e": np.float32(0.5)}, {"y": np.int32}),
        "has no kernel",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tflite_refuses_what_its_kernels_get_wrong(name: str, tmp_path: Path) -> None:
    hub, said = REFUSED[name]
    with pytest.raises(BackendError, match=said):
        convert(hub, tmp_path)


def test_corners_of_a_fraction_of_a_pixel_are_where_the_specification_puts_them(tmp_path: Path) -> None:
    """ONNX Resize-19, align_corners: the output's length is scale * input, 2.4 pixels here, not the 2 that are computed."""
    hub = single(
        "Resize",
        RNG.standard_normal((1, 1, 2, 4)).astype(np.float32),
        weights={"roi": None, "scales": np.asarray([1, 1, 0.6, 0.6], np.float32)},
        mode="linear",
        coordinate_transformation_mode="align_corners",
    )
    ours, _ = both(hub, tmp_path)
    specified = ReferenceEvaluator(str(tmp_path / "hub.onnx")).run(None, hub.feed)
    np.testing.assert_allclose(ours["y"], specified[0], rtol=1e-6, atol=1e-6)


def test_a_reshape_without_elements_is_one_run() -> None:
    regrouped = regroup(Layout.plain((0, 3, 4)), (3, 4, 0))
    assert regrouped.before == (0, 1, 2) and regrouped.after.stored == (3, 4, 0)
