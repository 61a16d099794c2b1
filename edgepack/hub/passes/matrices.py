"""Operators over matrices and along axes whose pattern is known: triangles, identities, the places of maxima, sums of products."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant, dtype_name
from edgepack.hub.passes.editing import Speller, Spelling, known_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]


def triangle(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Trilu-14: elements on and above (upper) or on and below diagonal k, 0 elsewhere."""
    x, *given = node.inputs
    shape = known_shape(x)
    if x is None or shape is None or len(shape) < 2:
        return None
    offset, is_upper = given[0] if given else None, attribute(node, "upper", 1)
    diagonals = np.arange(shape[-1])[None, :] - np.arange(shape[-2])[:, None]
    diagonal = np.zeros((), np.int64) if offset is None else constant(offset)
    if diagonal is None:
        held = spell.constant(diagonals, np.int64)
        kept = spell("GreaterOrEqual" if is_upper else "LessOrEqual", held, offset)
    else:
        kept = spell.constant(diagonals >= diagonal if is_upper else diagonals <= diagonal, np.bool_)
    return [spell("Where", kept, x, spell.constant(0, dtype_name(x)))]


def identity_matrix(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX EyeLike-9 of a known shape: a constant."""
    import onnx_ir as ir

    x = node.inputs[0]
    shape = known_shape(x)
    if x is None or x.dtype is None or shape is None:
        return None
    dtype = ir.DataType(attribute(node, "dtype", x.dtype)).numpy()
    return [spell("Identity", spell.constant(np.eye(shape[0], shape[1], k=attribute(node, "k", 0)), dtype))]


def hardmax(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Hardmax-13: 1 at the first largest element along the axis, 0 elsewhere."""
    x, axis = node.inputs[0], attribute(node, "axis", -1)
    shape = known_shape(x)
    if x is None or x.dtype is None or shape is None:
        return None
    places = np.arange(shape[axis]).reshape([-1 if held == axis % len(shape) else 1 for held in range(len(shape))])
    first = spell("ArgMax", x, axis=axis, keepdims=1)
    return [spell("Cast", spell("Equal", first, spell.constant(places, np.int64)), to=x.dtype)]


# ---- Einsum


class _Term:
    """A value and the labels of its axes."""

    def __init__(self, value: ir.Value, labels: str, sizes: dict[str, int]) -> None:
        self.value, self.labels, self.sizes = value, labels, sizes


def einsum(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Einsum-12 as products of matrices, two operands at a time: what both have and nothing else needs is summed in a MatMul.

    An operand that repeats a label (a diagonal) is left, and so is one whose sizes are not known.
    """
    shapes = [known_shape(value) for value in node.inputs]
    if any(shape is None for shape in shapes):
        return None
    left, result = _equation(attribute(node, "equation"), [len(shape) for shape in shapes if shape is not None])
    if any(len(set(labels)) < len(labels) for labels in left) or not _is_real(node):
        return None
    sizes: dict[str, int] = {}
    for labels, shape in zip(left, shapes, strict=True):
        for label, size in zip(labels, shape or (), strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
            if size == 1 and sizes[label] != 1:
                return None  # a size of 1 against another is broadcast, which no product of matrices does
    terms = [_Term(value, labels, sizes) for value, labels in zip(node.inputs, left, strict=True) if value is not None]
    while len(terms) > 1:
        first, second, *others = terms
        needed = set(result).union(*(term.labels for term in others))
        terms = [_product(first, second, needed, spell), *others]
    return [_ordered(_summed(terms[0], set(result), spell), result, spell)]


def _is_real(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and source.dtype is not None and source.dtype.is_floating_point()


def _equation(text: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of the operands and of the result; the axes of an ellipsis get capital letters that the equation does not use."""
    text = text.replace(" ", "")
    terms, _, result = text.partition("->")
    operands = terms.split(",")
    spare = [letter for letter in map(chr, range(ord("A"), ord("Z") + 1)) if letter not in text]
    hidden = max((rank - len(term) + 3 for term, rank in zip(operands, ranks, strict=True) if "..." in term), default=0)
    letters = "".join(spare[:hidden])
    written = [
        term.replace("...", letters[len(letters) - (rank - len(term) + 3) :] if "..." in term else "")
        for term, rank in zip(operands, ranks, strict=True)
    ]
    if "->" not in text:
        once = sorted(label for label in set(terms.replace(".", "").replace(",", "")) if terms.count(label) == 1)
        return written, letters + "".join(once)
    return written, result.replace("...", letters)


def _summed(term: _Term, needed: set[str], spell: Spelling) -> _Term:
    """Without the axes that nothing else has."""
    axes = [axis for axis, label in enumerate(term.labels) if label not in needed]
    if not axes:
        return term
    kept = "".join(label for label in term.labels if label in needed)
    return _Term(spell("ReduceSum", term.value, spell.integers(*axes), keepdims=0), kept, term.sizes)


def _ordered(term: _Term, labels: str, spell: Spelling) -> ir.Value:
    if term.labels == labels:
        return spell("Identity", term.value)
    return spell("Transpose", term.value, perm=[term.labels.index(label) for label in labels])


def _product(first: _Term, second: _Term, needed: set[str], spell: Spelling) -> _Term:
    """batch labels (in both and needed), rows (in the first), sums (in both, not needed), columns (in the second)."""
    first, second = _summed(first, needed | set(second.labels), spell), _summed(second, needed | set(first.labels), spell)
    both = [label for label in first.labels if label in second.labels]
    batch, sums = [label for label in both if label in needed], [label for label in both if label not in needed]
    rows = [label for label in first.labels if label not in both]
    columns = [label for label in second.labels if label not in both]
    left = _matrix(first, (batch, rows, sums), spell)
    right = _matrix(second, (batch, sums, columns), spell)
    labels = [*batch, *rows, *columns]
    product = spell("MatMul", left, right)
    shaped = spell("Reshape", product, spell.integers(*(first.sizes[label] for label in labels)))
    return _Term(shaped, "".join(labels), first.sizes)


def _matrix(term: _Term, parts: tuple[list[str], list[str], list[str]], spell: Spelling) -> ir.Value:
    """(batch..., rows, columns), the axes of each part in the order given and joined."""
    order = [label for part in parts for label in part]
    moved = spell("Transpose", term.value, perm=[term.labels.index(label) for label in order])
    joined = [prod(term.sizes[label] for label in part) for part in parts[1:]]
    return spell("Reshape", moved, spell.integers(prod(term.sizes[label] for label in parts[0]), *joined))


SPELLERS: dict[str, Speller] = {"Trilu": triangle, "EyeLike": identity_matrix, "Hardmax": hardmax, "Einsum": einsum}
