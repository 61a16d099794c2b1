"""The time that no query can beat, truth kind ``predicted``: what must be moved and multiplied, over what the hardware does at most.

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore architectures", CACM 52 (2009)
65-76, turned round: a bound from below on time. Whatever is not known counts as nothing, so that a measurement under the bound is
wrong (a clock, a cached answer, another device), never merely good.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgepack.errors import EdgepackError, one_line
from edgepack.hub.external import ModelFileError
from edgepack.pack.manifest import ArtifactRecord, Latency
from edgepack.quantize.scheme import Scheme
from edgepack.targets import Hardware, Target

if TYPE_CHECKING:
    import onnx

_S_TO_MS = 1e3
_BITS_OF_A_BYTE = 8
# A multiply and an add.
_OPERATIONS_OF_A_MAC = 2
# A model that claims more than this lies; larger integers have no float.
_MOST_MACS = 2**63


@dataclass(frozen=True)
class Work:
    """What one query asks of any machine.

    Attributes:
        macs: multiply-accumulates as the operators define them.
        least_macs: multiplications that the best algorithm for each convolution needs. Winograd's F(m, r) takes m + r - 1 for m outputs
            of a filter of r taps (S. Winograd, "Arithmetic Complexity of Computations", SIAM 1980; A. Lavin, S. Gray, "Fast algorithms
            for convolutional neural networks", CVPR 2016), so one an output as m grows: a window counts as one tap. Matrix products
            count in full: no runtime here multiplies matrices by Strassen's method.
        weights: numbers that the products take as weights, each tensor once. Rows of a table that a query may skip (Gather) are none.
    """

    macs: int
    least_macs: int
    weights: int


def work_of(hub: Path) -> Work:
    """The work of a hub in canonical form, whose tensors have shapes; a symbolic size counts as 1.

    Raises:
        ModelFileError: it is no ONNX model, or contradicts itself.
    """
    from edgepack.hub.reading import load_model

    try:
        return _work(load_model(hub, weights=False))
    except EdgepackError:
        raise
    except (ValueError, IndexError, KeyError) as error:
        raise ModelFileError(f"{hub} contradicts itself ({one_line(error)})", "build the pack again") from error


def _work(model: onnx.ModelProto) -> Work:
    from edgepack.inspection.macs import products, stored_tensors_of

    sizes = {held.name: math.prod(held.dims) for held in stored_tensors_of(model.graph)}
    # A student with codes of its own keeps its weights behind a DequantizeLinear.
    codes = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input}
    found = [held for held in products(model) if held.macs is not None and held.macs > 0]
    weights = {codes.get(held.weight, held.weight) for held in found}
    return Work(
        macs=min(sum(held.macs or 0 for held in found), _MOST_MACS),
        least_macs=min(sum((held.macs or 0) // max(held.window, 1) for held in found), _MOST_MACS),
        weights=sum(sizes.get(name, 0) for name in weights),
    )


def floor_ms(work: Work | Path, artifact: ArtifactRecord, target: Target, threads: int) -> float | None:
    """The least time of one query, in milliseconds; None where the target's hardware is not known.

    Args:
        work: of the fp32 hub the artifact was made from (``hub/fp32.onnx`` of a pack), or where that lies.
        threads: of the runtime; more than the cores are no faster.

    Raises:
        ModelFileError: the hub cannot be read.
    """
    if target.hardware is None:
        return None
    asked = work_of(work) if isinstance(work, Path) else work
    bounds = (_moving(asked, artifact, target.hardware), _multiplying(asked, artifact.scheme, target.hardware, threads))
    return max((bound * _S_TO_MS for bound in bounds if bound is not None), default=None)


def beaten(latency: Latency) -> str:
    """Words for a latency that is faster than its floor, which spoils it; "" for a credible one."""
    fastest = min((*latency.histogram_edges_ms[:1], *(held.value for held in (latency.p50, latency.p90) if held is not None)), default=None)
    if latency.floor_ms is None or fastest is None or fastest >= latency.floor_ms:
        return ""
    least = f"no query takes less than {latency.floor_ms:.3g} ms on this hardware at stock clock"
    return f"faster than physics: a query took {fastest:.3g} ms and {least}; see that the device is the target, and its clock"


def _moving(work: Work, artifact: ArtifactRecord, hardware: Hardware) -> float | None:
    """Seconds to read the weights from memory, each query anew, but for what the caches can hold from one query to the next.

    They are in the file, so they are no more than it; encodings may keep some layers wider, which is not counted.
    """
    if hardware.bytes_per_second is None or hardware.cache_bytes is None:
        return None
    stored = min(work.weights * Scheme.parse(artifact.scheme).weight_bits // _BITS_OF_A_BYTE, artifact.file.bytes)
    return max(0, stored - hardware.cache_bytes) / hardware.bytes_per_second


def _multiplying(work: Work, scheme: str, hardware: Hardware, threads: int) -> float | None:
    """Seconds for the multiplications on the cores that the threads can use."""
    rate = _fastest(scheme, hardware)
    if rate is None or hardware.cores is None:
        return None
    return work.least_macs * _OPERATIONS_OF_A_MAC / (rate * min(max(threads, 1), hardware.cores))


def _fastest(scheme: str, hardware: Hardware) -> float | None:
    """Operations a second of one core, in the fastest type that the runtime may choose for a scheme.

    fp32 stays float32. Weights in codes may be multiplied in any type: a runtime may also round what they are multiplied with.
    """
    rates = hardware.operations_per_second
    if scheme == "fp32":
        return rates.get("float32")
    if scheme == "fp16":
        return rates.get("float16")
    return max(rates.values(), default=None)
