"""Rows of a table in codes: they are gathered as codes and become reals one gather at a time, so that the table is never expanded.

Measured with LiteRT 2.3, one thread, x86: 128 of 30,522 rows of 384 numbers, by ids of shape (1, 128) that are wrapped first.

    reals             GATHER 2.9 us                                 EMBEDDING_LOOKUP between RESHAPEs 5.2 us
    codes, row scales GATHER, DEQUANTIZE, MUL 4.5 us, 11.84 MB      EMBEDDING_LOOKUP between RESHAPEs 27 us, 12.09 MB

The numbers are the same. EMBEDDING_LOOKUP takes a flat list of ids alone, multiplies codes one by one, and needs version 4 for a scale a
row, which older runtimes refuse; with GATHER the arithmetic is a delegate's. So EMBEDDING_LOOKUP is never written.
"""

from __future__ import annotations

import numpy as np

from edgepack.backends.tflite.emit import Emitter, arithmetic
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.program import Options, View
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.fold import Operand, Operation

# Codes as numbers: DEQUANTIZE turns code c into c, and the row's scale follows as a factor.
_AS_NUMBERS = Encoding(np.ones((), np.float32), np.zeros((), np.int8), "int8")


def takes_rows_of_codes(operation: Operation) -> bool:
    """Whether a Gather reads reals from rows of a constant matrix of codes: with one scale, or with a scale a row and no zero points."""
    table, result = operation.inputs[0], operation.outputs[0]
    if table is None or table.constant is None or table.encoding is None or result.encoding is not None:
        return False
    encoding = table.encoding
    is_scaled_by_row = encoding.axis == 0 and not encoding.zero_point.any()
    is_byte = encoding.dtype in ("int8", "uint8")
    takes_rows = table.rank == 2 and int(operation.attributes.get("axis", 0)) in (0, -2)
    return takes_rows and is_byte and (encoding.axis is None or (is_scaled_by_row and encoding.dtype == "int8"))


def rows_of_codes(table: Operand, indices: View, result: Operand, emit: Emitter) -> View:
    """``result``, reals (*indices, columns): scale of the row times code, one rounding as the hub's DequantizeLinear has it."""
    assert table.constant is not None and table.encoding is not None
    layout = Layout.plain(result.shape)
    if table.encoding.axis is None:
        rows = _gathered(emit.constant(table.name, table.constant, table.encoding), indices, layout, emit)
        return emit.run("DEQUANTIZE", [rows], emit.output(result, layout), Options("DequantizeOptions"))
    rows = emit.real(_gathered(emit.constant(table.name, table.constant, _AS_NUMBERS), indices, layout, emit))
    scales = emit.constant(f"{table.name}/scale_of_row", table.encoding.scale.reshape(-1, 1))
    factors = _gathered(scales, indices, Layout.plain((*result.shape[:-1], 1)), emit)
    return emit.run("MUL", [rows, factors], emit.output(result, layout), arithmetic("MUL"))


def _gathered(table: View, indices: View, layout: Layout, emit: Emitter) -> View:
    return emit.run("GATHER", [table, indices], emit.like(table, layout, "rows"), Options("GatherOptions", {"axis": 0, "batchDims": 0}))
