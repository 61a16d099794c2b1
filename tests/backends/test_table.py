"""Tables of operators: what is honoured, what is refused, and that a refusal lists everything at once."""

from __future__ import annotations

from typing import Any

import pytest

from edgepack.backends.table import BackendError, Obstacle, OperatorTable
from edgepack.quantize.fold import Operation


def operation(op_type: str, name: str, **attributes: Any) -> Operation:
    return Operation(op_type, name, attributes, (), ())


def three_groups_at_most(found: Operation) -> tuple[str, str] | None:
    groups = found.attributes.get("group", 1)
    return None if groups <= 3 else (f"{groups} groups", "use 3 groups or fewer")


@pytest.fixture
def table() -> OperatorTable[str]:
    made: OperatorTable[str] = OperatorTable("paper")
    made.lowers("Relu", "Sigmoid")("activation")
    made.lowers("Conv", honours=["group", "pads"], objects=three_groups_at_most)("convolution")
    return made


def test_what_is_registered_is_lowered_by_it(table: OperatorTable[str]) -> None:
    assert table.operators == ["Conv", "Relu", "Sigmoid"]
    assert (table["Sigmoid"], table["Conv"]) == ("activation", "convolution")
    assert table.obstacles([operation("Relu", "r"), operation("Conv", "c", group=3, pads=[1, 1])]) == []
    table.demand([operation("Relu", "r")])


def test_every_obstacle_is_listed_in_graph_order_with_its_node(table: OperatorTable[str]) -> None:
    model = [
        operation("Conv", "wide", group=4),
        operation("Relu", "fine"),
        operation("Conv", "tied", pads=[0], auto_pad="SAME_UPPER"),
        operation("Det", "odd"),
    ]
    assert table.obstacles(model) == [
        Obstacle("paper", "Conv", "wide", "4 groups", "use 3 groups or fewer"),
        Obstacle("paper", "Conv", "tied", "attribute 'auto_pad' is not honoured", "remove auto_pad from the student's Conv"),
        Obstacle("paper", "Det", "odd", "operator has no lowering", "replace Det in the student, or leave this target out"),
    ]


def test_a_demand_is_refused_with_the_first_obstacle_and_the_number_of_others(table: OperatorTable[str]) -> None:
    with pytest.raises(BackendError) as caught:
        table.demand([operation("Det", "odd"), operation("Conv", "wide", group=4)])
    assert caught.value.cause == "paper: Det 'odd': operator has no lowering (and 1 more; edgepack inspect lists all)"
    assert caught.value.exit_code == 2
    with pytest.raises(BackendError, match=r"operator has no lowering -> next: replace Det"):
        table.demand([operation("Det", "odd")])


def test_an_attribute_is_refused_before_the_backend_is_asked_about_the_form(table: OperatorTable[str]) -> None:
    (found,) = table.obstacles([operation("Conv", "c", group=9, dilations=[2])])
    assert "dilations" in found.cause


def test_an_operator_that_is_lowered_twice_is_a_defect(table: OperatorTable[str]) -> None:
    with pytest.raises(ValueError, match="paper lowers Relu twice"):
        table.lowers("Relu")("another")
