"""Evaluation without labels: how often an artifact names the class the student names, where the student is sure of it.

Nobody can say which of two near-equal classes is right for a photograph without a label, and rounding of any kind swaps them. So the gate
looks at the samples of which the student is sure; the agreement over all samples is recorded beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.pack.manifest import Accuracy
from edgepack.verify.judge import class_scores
from edgepack.verify.metrics import agreement, probabilities, top1
from edgepack.verify.statistics import paired_drop, wilson_interval

# A probability above which a class is an answer: no more than three classes can have it, however many there are. The bar of the project.
SURE = 0.3


def agreement_with_student(artifact: NDArray[Any], student: NDArray[Any]) -> Accuracy | None:
    """What an artifact agrees with the student on; None when the student is sure of no sample.

    Args:
        artifact, student: class scores (logits or probabilities) of the evaluation set, (samples, classes); axes of size 1 between the two
            are dropped.

    Raises:
        VerifyError: the shapes do not fit.
    """
    scores, wanted = class_scores(artifact, student)
    sure = probabilities(wanted).max(axis=1) >= SURE
    if not sure.any():
        return None
    classes, student_classes = top1(scores), top1(wanted)
    same = (classes == student_classes)[sure]
    return Accuracy(
        samples=int(sure.sum()),
        value=wilson_interval(int(same.sum()), same.size),
        student=1.0,
        drop=paired_drop(np.ones_like(same), same),
        agreement=agreement(classes, student_classes),
        metric="agreement",
    )
