"""The zoo as a test: one architecture of transformers and one by hand by default, all of them under ``-m slow``; and that it would see a
defect."""

import math

import pytest

from tests.conformance.worker import CRASH, PASS, REFUSED, WRONG, Result
from tests.zoo.run import MOST_NOT_CAPTURED, Row, run, table
from tests.zoo.worker import Hub, Outcome, judged

SAMPLE = ["Llama step with cache", "TCN"]


def told(rows: list[Row]) -> list[str]:
    """What is not within its bar, a line each."""
    lost = [f"{row.name}: {row.hub.outcome}, {row.hub.reason}" for row in rows if row.hub.outcome != PASS]
    held = [(row.name, title, result) for row in rows for title, result in row.results.items() if result.outcome != PASS]
    return lost + [f"{name} in {title}: {result.outcome}, {result.reason}" for name, title, result in held]


def test_a_decoder_step_and_a_convolutional_network_are_within_the_bars_of_every_format() -> None:
    pytest.importorskip("transformers", reason="the zoo's networks are transformers' own")
    rows = run(SAMPLE, jobs=1)
    assert told(rows) == [] and all(len(row.results) == 3 for row in rows)


@pytest.mark.slow
def test_every_architecture_is_within_the_bars_of_every_format() -> None:
    pytest.importorskip("transformers", reason="the zoo's networks are transformers' own")
    from tests.zoo.registry import names

    rows = run(names(), jobs=2)
    captured = [row for row in rows if row.is_captured]
    assert told(captured) == [] and len(captured) >= 40 and len(rows) - len(captured) <= MOST_NOT_CAPTURED


@pytest.mark.slow
def test_attention_as_one_operation_of_ios_18_is_within_the_same_bars() -> None:
    pytest.importorskip("transformers", reason="the zoo's networks are transformers' own")
    wanted = {"BERT": 2, "DETR": 5, "DiT": 2, "Gemma2": 0, "Llama": 2, "Swin": 4, "T5 decoder step": 4, "ViT": 2}
    rows = run(list(wanted), jobs=2, minimum_os="iOS18")
    fused = {row.name: {held.attentions for held in row.results.values() if isinstance(held, Outcome)} for row in rows}
    assert told(rows) == [] and fused == {name: {count} for name, count in wanted.items()}


@pytest.mark.parametrize(
    ("sqnr_db", "scheme", "ort_db", "outcome"),
    [
        (126.9, "fp32", 130.0, PASS),
        (111.0, "fp32", 130.0, PASS),
        (109.9, "fp32", 130.0, WRONG),
        (96.9, "fp32", 100.0, WRONG),
        (97.1, "fp32", 100.0, PASS),
        (math.inf, "fp32", 130.0, PASS),
        (-math.inf, "fp16", 130.0, WRONG),
        (39.9, "fp16", 130.0, WRONG),
        (40.1, "fp16", 130.0, PASS),
    ],
)
def test_an_answer_is_judged_by_the_bar_of_its_precision(sqnr_db: float, scheme: str, ort_db: float, outcome: str) -> None:
    assert judged(Outcome(PASS, "", sqnr_db), scheme, ort_db).outcome == outcome


def test_a_refusal_stays_one_and_the_table_says_it() -> None:
    refusal = Result(REFUSED, "GatherND 'node': operator has no lowering")
    assert judged(refusal, "fp32", 130.0) is refusal
    rows = [Row("A", Hub(PASS, "", ("Add",), 130.0), {"TFLite fp32": refusal, "Core ML fp32": refusal, "Core ML fp16": refusal})]
    crashed = Row("C", Result(CRASH, "RewriteError"))
    assert not rows[0].passes and not crashed.passes and crashed.is_captured and told([crashed]) == ["C: crash, RewriteError"]
    assert "| A | 1 | 130.0 | refused: GatherND" in table([*rows, Row("B", Result(REFUSED, "why"))])
