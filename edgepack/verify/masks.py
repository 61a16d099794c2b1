"""Segmentation: from an output and the masks of the evaluation set to its mean IoU, and what it loses against the student.

An output is either scores, one a class at every pixel (the class axis wherever it lies), or the classes themselves (integers).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.pack.manifest import Accuracy
from edgepack.verify.judge import Outputs, VerifyError
from edgepack.verify.metrics import NO_CLASS, VOID, PixelCounts, count_pixels, judged_pixels, mean_iou, pixel_classes
from edgepack.verify.statistics import bootstrap_mean_iou, paired_mean_iou_drop


def segmentation_accuracy(artifact: Outputs, student: Outputs, masks: NDArray[Any]) -> Accuracy | None:
    """Mean IoU of the first output of the masks' size; None when there is none.

    Args:
        artifact, student: outputs of the evaluation set by name, samples on the first axis; further axes of size 1 mean nothing.
        masks: integers (samples, height, width), ``metrics.VOID`` where no class is judged.

    Raises:
        VerifyError: the class axis of the output could be one of two, the artifact's has another shape, or a mask names no class of it.
    """
    name = next((name for name, array in student.items() if is_segmentation(array, masks)), None)
    if name is None:
        return None
    ours, theirs = artifact[name], student[name]
    if ours.shape != theirs.shape:
        raise VerifyError(f"the artifact gives '{name}' as {ours.shape}, the student as {theirs.shape}", "build the artifact again")
    answer, answer_student = _classes(name, ours, masks), _classes(name, theirs, masks)
    classes = _class_count(name, theirs, masks, (answer, answer_student))
    counts, counts_student = (_counts(name, each, masks, classes) for each in (answer, answer_student))
    same = (answer == answer_student) & (answer != NO_CLASS)
    return Accuracy(
        samples=len(masks),
        value=bootstrap_mean_iou(counts),
        student=mean_iou(counts_student),
        drop=paired_mean_iou_drop(counts_student, counts),
        agreement=float(same[judged_pixels(masks, classes)].mean()),
        metric="mIoU",
    )


def is_segmentation(output: NDArray[Any], masks: NDArray[Any]) -> bool:
    """Whether the output is one class, or one score a class, for every pixel of the masks."""
    return _is_class_map(output, masks) or bool(_class_axes(output, masks))


def _is_class_map(output: NDArray[Any], masks: NDArray[Any]) -> bool:
    return bool(np.issubdtype(output.dtype, np.integer)) and _sizes(output.shape) == _sizes(masks.shape)


def _class_axes(output: NDArray[Any], masks: NDArray[Any]) -> list[int]:
    """The axes without which the output has the masks' shape."""
    if not np.issubdtype(output.dtype, np.floating):
        return []
    shape = output.shape
    without = {axis: _sizes((*shape[:axis], *shape[axis + 1 :])) for axis in range(1, output.ndim)}
    return [axis for axis, left in without.items() if shape[axis] > 1 and left == _sizes(masks.shape)]


def _sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The number of samples, and every further size but 1."""
    return shape[:1] + tuple(size for size in shape[1:] if size != 1)


def _classes(name: str, output: NDArray[Any], masks: NDArray[Any]) -> NDArray[np.int64]:
    """The class at every pixel, in the masks' shape."""
    if _is_class_map(output, masks):
        return output.reshape(masks.shape).astype(np.int64)
    return pixel_classes(output, _class_axis(name, output, masks)).reshape(masks.shape)


def _class_axis(name: str, output: NDArray[Any], masks: NDArray[Any]) -> int:
    axes = _class_axes(output, masks)
    if len(axes) > 1:
        raise VerifyError(
            f"output '{name}' of shape {output.shape} has its classes on axis {axes[0]} or {axes[1]}: the masks fit both",
            "let the student give the classes themselves (argmax), or other sizes",
        )
    return axes[0]


def _class_count(name: str, output: NDArray[Any], masks: NDArray[Any], answers: Iterable[NDArray[np.int64]]) -> int:
    """How many classes there are. A map of classes does not say: as many as are named, since one that is not named does not count."""
    if not _is_class_map(output, masks):
        return int(output.shape[_class_axis(name, output, masks)])
    return 1 + max(int(np.where(each == VOID, NO_CLASS, each).max()) for each in (masks, *answers))


def _counts(name: str, answer: NDArray[np.int64], masks: NDArray[Any], classes: int) -> PixelCounts:
    if not judged_pixels(masks, classes).any():
        raise VerifyError("the evaluation masks name no class anywhere", "255 marks pixels not judged: check the masks")
    try:
        return count_pixels(answer, masks, classes)
    except ValueError as error:
        raise VerifyError(
            f"{error}, the classes of output '{name}'", "check the evaluation set's masks; 255 marks pixels not judged"
        ) from error
