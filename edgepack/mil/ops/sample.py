"""Reading an image between its pixels (coremltools iOS15 and iOS16 image_resizing.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements

# A coordinate and the size of its axis -> where that is between the centres of the first (0) and the last pixel (size - 1).
_UNITS: dict[str, Callable[[Array, int, bool], Array]] = {
    "unnormalized": lambda at, size, aligned: at,
    "normalized_zero_to_one": lambda at, size, aligned: _placed(at, size, aligned),
    "normalized_minus_one_to_one": lambda at, size, aligned: _placed((at + 1) / 2, size, aligned),
}


def _placed(part: Array, size: int, aligned: bool) -> Array:
    return part * (size - 1) if aligned else part * size - 0.5


# A pixel that may lie beyond the image, and the size -> the pixel that stands there. Mirrored without the edge pixel, or with it.
_PADDINGS: dict[str, Callable[[Array, int], Array]] = {
    "constant": lambda place, size: np.clip(place, 0, size - 1),
    "border": lambda place, size: np.clip(place, 0, size - 1),
    "reflection": lambda place, size: (size - 1) - np.abs(np.abs(place) % max(2 * size - 2, 1) - (size - 1)),
    "symmetric": lambda place, size: np.minimum(place % (2 * size), 2 * size - 1 - place % (2 * size)),
}

_ACCEPTS = ("x", "coordinates", "sampling_mode", "padding_mode", "padding_value", "coordinates_mode", "align_corners")


@implements("resample", accepts=_ACCEPTS)
def resample(operation: MilOperation) -> Kernel:
    """``x`` (B, C, H, W) read at ``coordinates`` (B, H2, W2, 2), each (x, y); beyond the image as the padding mode says.

    Which pixel is nearest to a point halfway between two is not documented: where they differ, that is refused.
    """
    padding, units, mode = (operation.text(name, "") for name in ("padding_mode", "coordinates_mode", "sampling_mode"))
    if mode not in ("bilinear", "nearest") or padding not in _PADDINGS or units not in _UNITS:
        raise operation.refusal(f"has sampling_mode {mode}, padding_mode {padding}, coordinates_mode {units}")
    fill, aligned = operation.number("padding_value", 0), operation.flag("align_corners")

    def kernel(x: Array, coordinates: Array) -> Array:
        sides = [_UNITS[units](coordinates[..., 1 - at].astype(np.float32), x.shape[2 + at], aligned) for at in range(2)]
        if mode == "bilinear":
            return _bilinear(x, sides, padding, fill).transpose(0, 3, 1, 2)
        lower, upper = [np.ceil(at - 0.5) for at in sides], [np.floor(at + 0.5) for at in sides]
        found = _pixels(x, lower, padding, fill)
        if not np.array_equal(found, _pixels(x, upper, padding, fill)):
            raise operation.refusal("reads halfway between two pixels, of which Core ML documents none to be the nearest")
        return found.transpose(0, 3, 1, 2)

    return operation.bind(("x", "coordinates"), kernel)


def _bilinear(x: Array, sides: list[Array], padding: str, fill: np.float32) -> Array:
    total = np.zeros((x.shape[0], *sides[0].shape[1:], x.shape[1]), np.float32)
    for down in range(2):
        for right in range(2):
            places = [np.floor(at) + step for at, step in zip(sides, (down, right), strict=True)]
            weight = np.prod([1 - np.abs(at - place) for at, place in zip(sides, places, strict=True)], axis=0)
            total += weight[..., None] * _pixels(x, places, padding, fill)
    return total


def _pixels(x: Array, places: list[Array], padding: str, fill: np.float32) -> Array:
    """(B, H2, W2, C) the pixels at whole places."""
    rows, columns = (_PADDINGS[padding](place.astype(np.int64), size) for place, size in zip(places, x.shape[2:], strict=True))
    found: Array = x.transpose(0, 2, 3, 1)[np.arange(len(x))[:, None, None], rows, columns]
    if padding != "constant":
        return found
    beyond = [(place < 0) | (place > size - 1) for place, size in zip(places, x.shape[2:], strict=True)]
    return np.where(np.logical_or(*beyond)[..., None], fill, found)
