"""Students with open sizes in every scheme: at every size the package answers as its own hub in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgepack.backends import coreml
from edgepack.backends.artifact import WriteOptions
from edgepack.calibration.observe import observe
from edgepack.calibration.readers import Samples
from edgepack.hub.canonical import canonicalize
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands
from edgepack.quantize.weights import quantize_weights
from edgepack.student.program import Student

from . import flexible_students
from .flexible_models import feed_at, opened

# What Core ML needs of every scale.
DEMANDS = Demands("float16")
# By scheme, how far the worst number of an output may be from the hub's, by the output's largest. fp32: sums of 576 terms at most in
# another order, over five layers: 5 * 576 * 2^-24. fp16 products rounded to 11 bits, over ten layers in a row: 10 * 2^-11. A code apart
# in ten layers of 255 codes each: 10 / 255, where a runtime rounds between them.
FURTHEST = {"fp32": 1.7e-4, "fp16": 5e-3, "w8": 5e-3, "w8a8": 0.04}
STUDENTS: Mapping[str, Callable[[], Student]] = {
    "encoder": flexible_students.encoder,
    "encoder in batches": flexible_students.encoder_in_batches,
    "images": flexible_students.images,
    "sound": flexible_students.sound,
}
# What the default suite has time for.
SOONER = {("encoder in batches", "w8a8"), ("sound", "w8")}
PAIRS = [pytest.param(name, scheme, marks=[] if (name, scheme) in SOONER else pytest.mark.slow) for name in STUDENTS for scheme in FURTHEST]


@cache
def hub_of(name: str) -> ir.Model:
    program = STUDENTS[name]().program
    with TemporaryDirectory() as folder:
        program.capture(Path(folder) / "captured.onnx")
        return canonicalize(onnx.load(Path(folder) / "captured.onnx"), program.example()).model


def in_scheme(hub: ir.Model, scheme: str, example: Mapping[str, int]) -> ir.Model:
    if scheme == "w8":
        return quantize_weights(hub, DEMANDS)[0]
    if scheme == "w8a8":
        feeds = [feed_at(hub, example, seed) for seed in range(8)]
        data = Samples({name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
        return quantize_static(hub, observe(ir.to_proto(hub), data, lambda done, total: None), DEMANDS)[0]
    return hub


@pytest.mark.parametrize(("name", "scheme"), PAIRS)
def test_a_student_of_open_sizes_answers_as_its_hub_at_each(name: str, scheme: str, tmp_path: Path) -> None:
    student, hub = STUDENTS[name](), hub_of(name)
    example = {"sequence": 16, "batch": 2 if name == "encoder in batches" else 1, "length": 400}
    model = in_scheme(hub, scheme, example)
    found = opened(model, tmp_path, WriteOptions(scheme=scheme), student.sizes, example)
    assert max(found.differences()) < FURTHEST[scheme]
    assert found.description.sizes == dict(student.sizes)
    assert coreml.lint(found.package) == []
