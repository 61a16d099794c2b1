"""How a waterfall is shown: the right rows, the two sentences, and nothing wider than the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgepack.cli.waterfall import _show_one, _worst, shortened, verdict
from edgepack.pack.manifest import ArtifactRecord, FileRecord, Parity
from edgepack.verify.waterfall import Layer, Waterfall
from edgepack.verify.waterfalls import Traced


def layer(name: str, own: float | None, departs: bool = False, is_layer: bool = True, runtime: float = 0.5) -> Layer:
    return Layer(f"{name}_quantized", name, "Conv+Relu", is_layer, 30.0, 30.1, own, runtime, "steps", 1.0, departs)


def waterfall(*layers: Layer) -> Waterfall:
    first = next((held.value for held in layers if held.departs), "")
    costs = {held.own_db: held.layer for held in layers if held.own_db is not None}
    return Waterfall("android", "w8a8", "litert 2.3.0", "host", 4, len(layers), len(layers), first, costs[min(costs)], layers)


def shown(found: Waterfall, width: int, every: bool = False) -> str:
    record = ArtifactRecord("android", "", "w8a8", "litert", "", FileRecord("", 0, ""), (), (), Parity("host", 0, ()), None)
    console = Console(file=io.StringIO(), width=width)
    _show_one(console, Traced(record, found, None, True), found, every)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_the_costliest_ten_layers_are_shown_in_execution_order() -> None:
    layers = [layer(f"l{index}", 60.0 - index if index % 2 else 20.0 + index) for index in range(14)]
    rows = _worst(tuple(layers))
    assert len(rows) == 10
    assert rows == sorted(rows, key=layers.index)
    assert {held.layer for held in layers} - {held.layer for held in rows} == {"l1", "l3", "l5", "l7"}


def test_a_layer_that_departs_is_shown_whatever_it_costs_and_named() -> None:
    layers = [*(layer(f"l{index}", 10.0 + index) for index in range(12)), layer("odd", None, departs=True, is_layer=False, runtime=7.1)]
    found = waterfall(*layers)
    assert layers[-1] in _worst(found.layers)
    assert verdict(found) == [
        "departs first at 'odd' (Conv+Relu): codes are up to 7.1 steps off, at most 1 expected",
        "largest error of one layer: 'l0' (Conv+Relu), 10.0 dB",
    ]


def test_codes_and_the_reals_read_back_from_them_are_one_row() -> None:
    codes, reals = layer("logits", 40.0), Layer("logits", "logits", "Gemm", True, 40.0, 40.0, 40.0, None, "dB", 106.0, False)
    assert _worst((codes, reals)) == [codes]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("every", [False, True])
def test_nothing_of_the_table_is_wider_than_the_terminal_or_cut_off(width: int, every: bool) -> None:
    name = "/backbone/stages.3/blocks.11/depthwise_convolution/batch_normalization"
    text = shown(waterfall(layer(name, 20.0, runtime=123.45), layer("b", 30.0)), width, every)
    lines = [line for line in text.splitlines() if "largest error" not in line]
    assert all(len(line.rstrip()) <= width for line in lines)
    assert any("123.45 st" in line and "30.1" in line for line in lines)


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    assert shortened("relu", 10) == "relu"
    cut = shortened("/backbone/stages.3/blocks.11/convolution", 20)
    assert len(cut) == 20
    assert cut.startswith("/backbone")
    assert cut.endswith("nvolution")
