"""The grammar of scheme names."""

import pytest

from edgepack.errors import InputError
from edgepack.quantize.scheme import Scheme


@pytest.mark.parametrize(
    "name, bits, activations, block",
    [
        ("fp32", 32, "float32", 0),
        ("fp16", 16, "float16", 0),
        ("w8a8", 8, "static", 0),
        ("w8d8", 8, "dynamic", 0),
        ("w8", 8, "float32", 0),
        ("w4b32", 4, "float32", 32),
        ("w4b128", 4, "float32", 128),
        ("t2b128", 2, "float32", 128),
    ],
)
def test_every_name_of_the_design_is_understood(name: str, bits: int, activations: str, block: int) -> None:
    scheme = Scheme.parse(name)
    assert (scheme.name, scheme.weight_bits, scheme.activations, scheme.block_size) == (name, bits, activations, block)


@pytest.mark.parametrize("name", ["int8", "w8a4", "W8A8", "w4b33", "", "fp64", "t2"])
def test_other_names_are_refused_with_the_list(name: str) -> None:
    with pytest.raises(InputError, match="w8a8"):
        Scheme.parse(name)
