"""The judging step on an evaluation set given as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgepack.arrays import save_arrays
from edgepack.calibration.readers import Samples
from edgepack.targets import load_target
from edgepack.verify.steps import RunFacts, Verdict, judge


def judged(
    folder: Path,
    student: np.ndarray,
    artifact: np.ndarray,
    labels: np.ndarray | None,
    golden: np.ndarray,
    metrics: Sequence[str] = (),
    by_student: bool = False,
) -> Verdict:
    """The verdict in fp32 on what student and artifact answered, sample by sample; on the golden samples both answered ``golden``."""
    double = golden.astype(np.float64) if golden.dtype == np.float32 else golden
    for name, array in {"golden": golden, "outputs": golden, "reference": double, "artifact": artifact, "student": student}.items():
        save_arrays(folder / f"{name}.npz", {"y": array})
    Samples({"x": np.zeros((len(student), 1, 2), np.float32)}, labels).save(folder / "evaluation.npz")
    (folder / "run.json").write_bytes(msgspec.json.encode(RunFacts("ort 1", "host", {})))
    judge(
        run=folder / "run.json",
        golden=folder / "golden.npz",
        golden_outputs=folder / "outputs.npz",
        golden_reference=folder / "reference.npz",
        evaluation=folder / "evaluation.npz",
        evaluation_outputs=folder / "artifact.npz",
        student_evaluation=folder / "student.npz",
        target=msgspec.to_builtins(load_target("android")),
        scheme="fp32",
        metrics=list(metrics),
        by_student=by_student,
        out=folder,
        progress=lambda done, total: None,
    )
    return msgspec.json.decode((folder / "verdict.json").read_bytes(), type=Verdict)
