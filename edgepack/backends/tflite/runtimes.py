"""Old runtimes an artifact may have to run in: the operator versions each has, and the int8 kernels that are wrong or too coarse there.

The versions are those of BuiltinOpResolver (tensorflow/lite/core/kernels/register.cc of the release); tests/backends/tflite/probe.py asks
the runtime itself for every one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgepack.backends.table import BackendError
from edgepack.backends.tflite.program import Call
from edgepack.backends.tflite.versions import version


@dataclass(frozen=True)
class OldRuntime:
    """What one runtime can do.

    Attributes:
        title: what people call it. runner: the runner that runs it.
        highest: the highest version it has of each operator; it has all from 1 to there.
        coarse: operators whose kernels for int8 weights or activations round otherwise than the bounds on int8 parity allow.
        lacks: (operator, type of its input) of kernels that were added later without a new version.
        finite: operators that are not infinite over nothing, as they should be.
        same_must_not_skip: whether padding SAME gives zeros where windows are further apart than they are large.
        ranks: the most axes that kernels take which would take more today.
        broadcasts: operators whose kernels broadcast up to that rank only, and end the process beyond it.
    """

    title: str
    runner: str
    highest: Mapping[str, int]
    coarse: frozenset[str]
    lacks: frozenset[tuple[str, str]]
    finite: frozenset[str]
    same_must_not_skip: bool
    ranks: Mapping[str, int]
    broadcasts: Mapping[str, int]

    def needs_equal_shapes(self, operator: str, rank: int) -> bool:
        """Whether the operands of that rank must have the shape of the result."""
        return rank > self.broadcasts.get(operator, rank)

    def refusal(self, call: Call) -> str:
        """Why it does not run a call, or runs it wrongly; "" when it is right."""
        number, highest = version(call), self.highest.get(call.operator, 0)
        if number > highest:
            known = f"knows versions up to {highest}" if highest else "does not know it"
            return f"it becomes {call.operator} version {number}, and {self.title} {known}"
        if call.operator in self.coarse and any(held is not None and held.dtype == "int8" for held in call.inputs):
            return f"it becomes {call.operator} in int8, which {self.title} does not round to the nearest code"
        source = call.inputs[0]
        if source is not None and (call.operator, source.dtype) in self.lacks:
            return f"it is {call.operator} of {source.dtype}, which {self.title} does not have"
        if source is not None and len(source.shape) > self.ranks.get(call.operator, len(source.shape)):
            return f"it is {call.operator} of {len(source.shape)} axes, and {self.title} takes up to {self.ranks[call.operator]}"
        if call.operator in self.finite and source is not None and 0 in source.shape:
            return f"it is {call.operator} of nothing, which {self.title} takes for the largest finite number"
        return ""


def runtime(name: str) -> OldRuntime | None:
    """The runtime of a name ("2.14"), None for "": today's, which knows all that is written.

    Raises:
        BackendError: nothing is known of it.
    """
    if not name:
        return None
    if name not in _RUNTIMES:
        raise BackendError(f"tflite: nothing is known of a runtime '{name}'", f"use {', '.join(_RUNTIMES)}, or name none")
    return _RUNTIMES[name]


def _versions(table: Mapping[int, str]) -> dict[str, int]:
    return {operator: number for number, operators in table.items() for operator in operators.split()}


# Measured by ``python -m tests.backends.test_tflite_legacy`` in codes of the output: a mean up to 0.98 off, a bilinear resize up to 4.9, a
# product 0.51. Sums of products are rounded twice (gemmlowp: SaturatingRoundingDoublingHighMul, then RoundingDivideByPOT), which gives the
# neighbour of the exact code once or twice in a thousand. Its own kernels compute these; XNNPACK, which LiteRT uses, is not asked for int8
# in 2.14. Computing them in float between DEQUANTIZE and QUANTIZE would keep the table and gain nothing over w8: one other code changes the
# codes of every layer behind it. Kernels that range real activations at run time (w8d8) choose other codes than today's.
_2_14 = OldRuntime(
    title="TensorFlow Lite 2.14",
    runner="tflite_runtime",
    highest=_versions(
        {
            1: """
                ADD_N ASSIGN_VARIABLE ATAN2 BITCAST BITWISE_XOR BROADCAST_ARGS BUCKETIZE CALL_ONCE CEIL COMPLEX_ABS CONV_3D
                CONV_3D_TRANSPOSE COS CUMSUM DENSIFY DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP_SPARSE EXPAND_DIMS FLOOR HARD_SWISH
                HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_LOOKUP HASHTABLE_SIZE IF IMAG L2_POOL_2D
                LOCAL_RESPONSE_NORMALIZATION LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LSH_PROJECTION MATRIX_DIAG MATRIX_SET_DIAG
                MULTINOMIAL NEG NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 ONE_HOT POW PRELU RANDOM_STANDARD_NORMAL RANDOM_UNIFORM
                RANK READ_VARIABLE REAL REDUCE_ALL REDUCE_ANY RELU_0_TO_1 RELU_N1_TO_1 RESHAPE REVERSE_SEQUENCE RFFT2D RIGHT_SHIFT
                ROUND SCATTER_ND SEGMENT_SUM SHAPE SIN SKIP_GRAM SQRT SQUARE UNIQUE UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN
                UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_SUM VAR_HANDLE WHILE ZEROS_LIKE
            """,
            2: """
                DEPTH_TO_SPACE DIV EXP FAKE_QUANT FLOOR_MOD GELU GREATER L2_NORMALIZATION LEAKY_RELU LESS_EQUAL LOG_SOFTMAX RANGE
                REDUCE_PROD RSQRT SELECT_V2 SIGN SPACE_TO_DEPTH SPLIT_V SQUARED_DIFFERENCE SQUEEZE SUM WHERE
            """,
            3: """
                ARG_MAX ARG_MIN AVERAGE_POOL_2D BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN BROADCAST_TO EMBEDDING_LOOKUP
                FLOOR_DIV GREATER_EQUAL LESS LOGISTIC MAX_POOL_2D MEAN MIRROR_PAD NOT_EQUAL QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6
                REVERSE_V2 RNN SOFTMAX SPARSE_TO_DENSE TANH TILE TOPK_V2 UNIDIRECTIONAL_SEQUENCE_RNN
            """,
            4: """
                BATCH_MATMUL BATCH_TO_SPACE_ND CONCATENATION EQUAL FILL GATHER_ND LSTM MAXIMUM MINIMUM PACK PAD PADV2 RESIZE_BILINEAR
                RESIZE_NEAREST_NEIGHBOR SELECT SPACE_TO_BATCH_ND SPLIT SVDF TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK
            """,
            5: "ABS ADD CAST DEQUANTIZE SUB",
            6: "GATHER SLICE TRANSPOSE",
            7: "CONV_2D DEPTHWISE_CONV_2D MUL",
            8: "STRIDED_SLICE",
            10: "FULLY_CONNECTED",
        }
    ),
    coarse=frozenset(
        {"BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN", "MUL", "RESIZE_BILINEAR", "TRANSPOSE_CONV"}
    ),
    lacks=frozenset({("PAD", "bool"), ("PADV2", "bool")}),
    finite=frozenset({"REDUCE_MAX", "REDUCE_MIN"}),
    same_must_not_skip=True,
    # "only supports 1D-5D input arrays": slice.cc, strided_slice.cc and pad.cc of tensorflow/lite/kernels at v2.14.0.
    ranks=dict.fromkeys(("SLICE", "STRIDED_SLICE", "PAD", "PADV2"), 5),
    broadcasts={
        **dict.fromkeys(("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "LOGICAL_AND", "LOGICAL_OR"), 4),
        **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "POW", "FLOOR_MOD"), 4),
        "SELECT_V2": 5,
    },
)

_RUNTIMES = {"2.14": _2_14}
