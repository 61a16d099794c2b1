"""A student with a state: a GRU cell that reads three numbers a step."""

import torch
from torch import nn

from edgepack import Student


class Counter(nn.Module):
    """(1, 3) and a state (1, 8) to a score (1, 2) and the next state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.cell, self.score = nn.GRUCell(3, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        held = self.cell(x, past)
        return self.score(held), held


def student() -> Student:
    """The cell with its state declared."""
    return Student(
        Counter().eval(), (torch.ones(1, 3), torch.zeros(1, 8)), ["x", "past"], ["score", "next"], name="counter", state={"past": "next"}
    )
