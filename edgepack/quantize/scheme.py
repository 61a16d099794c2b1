"""Names of schemes: the grammar used in files, on the command line and in reports.

``fp32``, ``fp16``; ``w8a8`` static int8 with per-channel weights; ``w8d8`` dynamic activations; ``w8``, ``w4b32`` weights only
(b = block size); ``t2b128`` ternary in 2 bits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgepack.errors import InputError

Activations = Literal["float32", "float16", "static", "dynamic"]

_GRAMMAR = re.compile(r"(?P<float>fp32|fp16)|w(?P<bits>8|4)(?:(?P<act>[ad])8)?(?:b(?P<block>32|64|128))?|t2b(?P<ternary>32|64|128)")


@dataclass(frozen=True)
class Scheme:
    """How a model's numbers are held.

    Attributes:
        name: as the grammar spells it.
        weight_bits: 32, 16, 8, 4 or 2.
        activations: "float32", "float16", "static" (calibrated int8) or "dynamic" (int8, ranged at run time).
        block_size: weights that share a scale; 0 for a scale per output channel.
    """

    name: str
    weight_bits: int
    activations: Activations
    block_size: int = 0

    @property
    def is_static(self) -> bool:
        """Whether activations carry codes from a calibration."""
        return self.activations == "static"

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme called ``name``; InputError when the grammar has no such name."""
        match = _GRAMMAR.fullmatch(name)
        if match is None:
            raise InputError(f"scheme '{name}' is not a scheme name", "use fp32, fp16, w8a8, w8d8, w8, w4b32, w4b128 or t2b128")
        if match["float"]:
            return cls(name, int(name[2:]), "float16" if name == "fp16" else "float32")
        if match["ternary"]:
            return cls(name, 2, "float32", int(match["ternary"]))
        activations: Activations = {"a": "static", "d": "dynamic", None: "float32"}[match["act"]]  # type: ignore[assignment]
        return cls(name, int(match["bits"]), activations, int(match["block"] or 0))
