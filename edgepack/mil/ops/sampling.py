"""Images sampled at computed places (coremltools iOS15 to iOS17 image_resizing.py): crop, crop_resize and affine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements


@implements("crop", accepts=("x", "crop_height", "crop_width"), selects=True)
def crop(operation: MilOperation) -> Kernel:
    """Without as many rows at the top and bottom, and columns at the left and right, as the two pairs say."""
    (top, bottom), (left, right) = operation.integers("crop_height", ()), operation.integers("crop_width", ())
    return operation.bind(("x",), lambda x: x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right])


_BOX = ("target_height", "target_width", "normalized_coordinates", "spatial_scale", "box_coordinate_mode", "sampling_mode", "pad_value")

# A box as (top, left, bottom, right) from its four coordinates.
_CORNERS: dict[str, Callable[[float, float, float, float], tuple[float, float, float, float]]] = {
    "CORNERS_HEIGHT_FIRST": lambda top, left, bottom, right: (top, left, bottom, right),
    "CORNERS_WIDTH_FIRST": lambda left, top, right, bottom: (top, left, bottom, right),
    "CENTER_SIZE_HEIGHT_FIRST": lambda y, x, height, width: (y - height / 2, x - width / 2, y + height / 2, x + width / 2),
    "CENTER_SIZE_WIDTH_FIRST": lambda x, y, width, height: (y - height / 2, x - width / 2, y + height / 2, x + width / 2),
}


@implements("crop_resize", accepts=("x", "roi", "boxes", "box_indices", *_BOX))
def crop_resize(operation: MilOperation) -> Kernel:
    """Every box of an image resized to the target size by linear interpolation; the ends of the box are the outermost samples.

    x (B, C, H, W). From iOS 17 on ``boxes`` (N, 4) with ``box_indices`` (N,), the image of each, give (N, C, h, w). Before, ``roi``
    (N, 1, 5, 1, 1) with the image first gives (N, 1, C, h, w), and (N, 1, 4, 1, 1) every box of every image: (N, B, C, h, w). A sample
    outside of the image is ``pad_value``; iOS 15 has none, and documents nothing else: refused.
    """
    cut = _cutting(operation)

    def by_region(x: Array, roi: Array) -> Array:
        rows = roi.reshape(len(roi), -1)
        if rows.shape[1] == 4:
            return np.stack([np.stack([cut(image, row) for image in x]) for row in rows])
        return np.stack([cut(_picked(operation, x, row[0]), row[1:])[None] for row in rows])

    def by_box(x: Array, boxes: Array, indices: Array | None) -> Array:
        images = np.arange(len(boxes)) if indices is None else indices
        return np.stack([cut(_picked(operation, x, image), box) for image, box in zip(images, boxes, strict=True)])

    if operation.has("roi"):
        return operation.bind(("x", "roi"), by_region)
    return operation.bind(("x", "boxes", "box_indices"), by_box, box_indices=None)


def _picked(operation: MilOperation, x: Array, image: float) -> Array:
    if not 0 <= image < len(x):
        raise operation.refusal(f"takes a box of image {image:g} of {len(x)}")
    return np.asarray(x[int(image)])


def _cutting(operation: MilOperation) -> Callable[[Array, Array], Array]:
    """From an image (C, H, W) and a box (4,) to the resized box (C, h, w)."""
    order, mode = operation.text("box_coordinate_mode", "CORNERS_HEIGHT_FIRST"), operation.text("sampling_mode", "DEFAULT")
    if order not in _CORNERS or mode not in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        raise operation.refusal(f"has box_coordinate_mode {order} and sampling_mode {mode}")
    target = [operation.integers(name, (1,))[0] for name in ("target_height", "target_width")]
    scale, normalized = float(operation.number("spatial_scale", 1)), operation.flag("normalized_coordinates")

    def cut(image: Array, box: Array) -> Array:
        ends = np.reshape(_CORNERS[order](*(float(held) * scale for held in box)), (2, 2))
        if normalized:
            ends = ends * np.subtract(image.shape[1:], 1)
        rows, columns = (_between(pair[0], pair[1], count, mode) for pair, count in zip(ends.T, target, strict=True))
        inside = _inside(rows, image.shape[1])[:, None] & _inside(columns, image.shape[2])
        if not inside.all() and not operation.has("pad_value"):
            raise operation.refusal("takes a box that is partly outside of the image")
        return np.where(inside, bilinear(image, rows[:, None], columns[None], np.float32(0)), operation.number("pad_value", 0))

    return cut


def _between(start: float, end: float, count: int, mode: str) -> Array:
    """``count`` points from ``start`` to ``end``; a single one is the start, or in the middle for ALIGN_CORNERS."""
    if count > 1:
        return start + np.arange(count) * ((end - start) / (count - 1))
    return np.asarray([start if mode == "STRICT_ALIGN_CORNERS" else (start + end) / 2])


def _inside(points: Array, size: int) -> Array:
    return np.asarray((points >= 0) & (points <= size - 1))


@implements(
    "affine",
    accepts=(
        "x",
        "transform_matrix",
        "output_height",
        "output_width",
        "sampling_mode",
        "padding_mode",
        "padding_value",
        "coordinates_mode",
        "align_corners",
    ),
)
def affine(operation: MilOperation) -> Kernel:
    """Output pixel (x, y) is sampled at (a0 x + a1 y + a2, b0 x + b1 y + b2), both in [-1, 1] from corner to corner; 0 outside.

    x (B, C, H, W), transform_matrix (B or 1, 6) with a0, a1, a2, b0, b1, b2.
    """
    forms = {"sampling_mode": "bilinear", "padding_mode": "constant", "coordinates_mode": "normalized_minus_one_to_one"}
    for name, known in forms.items():
        if operation.text(name, known).lower() != known:
            raise operation.refusal(f"has {name} {operation.text(name, known)}")
    if operation.number("padding_value", 0) or not operation.flag("align_corners"):
        raise operation.refusal("has a padding_value, or no align_corners")
    height, width = (operation.integers(name, ())[0] for name in ("output_height", "output_width"))

    def kernel(x: Array, matrix: Array) -> Array:
        across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
        places = np.stack([across, down, np.ones_like(across)])
        images = [_transformed(image, rows, places) for image, rows in zip(x, np.broadcast_to(matrix, (len(x), 6)), strict=True)]
        return np.stack(images)

    return operation.bind(("x", "transform_matrix"), kernel)


def _transformed(image: Array, matrix: Array, places: Array) -> Array:
    columns, rows = np.tensordot(matrix.astype(np.float64).reshape(2, 3), places, 1)
    sizes = image.shape[1:]
    return bilinear(image, (rows + 1) / 2 * (sizes[0] - 1), (columns + 1) / 2 * (sizes[1] - 1), np.float32(0))


def bilinear(image: Array, rows: Array, columns: Array, outside: np.float32) -> Array:
    """An image (C, H, W) at fractional places that broadcast to (h, w); the pixels around it are ``outside``."""
    top, left = np.floor(rows), np.floor(columns)
    down, right = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    corners = [(0, 0, (1 - down) * (1 - right)), (0, 1, (1 - down) * right), (1, 0, down * (1 - right)), (1, 1, down * right)]
    return np.asarray(sum(weight * pixels(image, top + below, left + beside, outside) for below, beside, weight in corners))


def pixels(image: Array, rows: Array, columns: Array, outside: np.float32) -> Array:
    """The pixels of an image (C, H, W) at whole places that broadcast to (h, w), ``outside`` where there is none: (C, h, w)."""
    height, width = image.shape[1:]
    inside = _inside(rows, height) & _inside(columns, width)
    return np.where(inside, image[:, _held(rows, height), _held(columns, width)], outside)


def _held(places: Array, size: int) -> Array:
    return np.clip(places, 0, size - 1).astype(np.int64)
