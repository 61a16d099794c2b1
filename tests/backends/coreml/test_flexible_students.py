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
import torch

from edgepack.backends import coreml
from edgepack.backends.artifact import WriteOptions
from edgepack.calibration.observe import observe
from edgepack.calibration.readers import Samples
from edgepack.hub.canonical import canonicalize
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands
from edgepack.quantize.weights import quantize_weights
from edgepack.student.program import Student
from edgepack.student.spec import TensorSpec
from edgepack.verify.judge import OWN_CODES_DB
from tests.system import sized_students

from .flexible_models import feed_at, opened

# What Core ML needs of every scale.
DEMANDS = Demands("float16")
# By scheme, how far the worst number of an output may be from the hub's, by the output's largest. fp32: sums of 576 terms at most in
# another order, over five layers: 5 * 576 * 2^-24. fp16: products rounded to 11 bits, over ten layers in a row: 10 * 2^-11. Of codes two
# runtimes keep OWN_CODES_DB in the mean square; the worst of a few dozen normal numbers is 2.8 times that.
FURTHEST = {"fp32": 1.7e-4, "fp16": 5e-3, "w8": 5e-3, "w8a8": 2.8 * 10 ** (-OWN_CODES_DB / 20)}


def encoder_in_batches() -> Student:
    """The encoder with 1 to 6 sequences at a time: int64 (1..6, 1..128)."""
    ids = torch.arange(24).reshape(2, 12) % sized_students.WORDS
    inputs = [TensorSpec(name, shape=("batch", "sequence")) for name in ("ids", "mask")]
    sizes = {"batch": (1, 6), "sequence": (1, sized_students.LONGEST)}
    return Student(sized_students.Encoder(), (ids, torch.ones_like(ids)), inputs, ["scores"], name="batches", sizes=sizes)


STUDENTS: Mapping[str, Callable[[], Student]] = {
    "encoder": sized_students.encoder,
    "encoder in batches": encoder_in_batches,
    "images": sized_students.images,
    "sound": sized_students.sound,
}
EXAMPLES = {
    "encoder": {"sequence": 12},
    "encoder in batches": {"batch": 2, "sequence": 12},
    "images": {"batch": 1},
    "sound": {"length": 400},
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
    student, hub, example = STUDENTS[name](), hub_of(name), EXAMPLES[name]
    model = in_scheme(hub, scheme, example)
    found = opened(model, tmp_path, WriteOptions(scheme=scheme), student.sizes, example)
    assert max(found.differences()) < FURTHEST[scheme]
    assert found.description.sizes == dict(student.sizes)
    assert coreml.lint(found.package) == []
