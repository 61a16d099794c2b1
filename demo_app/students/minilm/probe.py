"""Fits the spam filter's linear probe again: logistic regression on the student's vectors of the training mails.

python demo_app/students/minilm/probe.py            # a few minutes on one core
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import mails
import numpy as np
import student
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from edgepack.student.huggingface.tokens import Tokens

# Vectors have length 1, components about 1/sqrt(384): scikit-learn's usual penalty of 1 would hold the weights near zero.
INVERSE_PENALTY = 10.0


def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """(N, 384), of length 1."""
    network = student.student().program
    return np.concatenate([network.run(sample)["sentence_embedding"] for sample in Tokens(student.folder()).samples(texts)])


def fitted(split: str) -> LogisticRegression:
    """Logistic regression on the mails of a split."""
    held = mails.mails(split)
    probe = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)
    return probe.fit(vectors([mail.text for mail in held]), [mail.label for mail in held])


def two_rows(probe: LogisticRegression) -> dict[str, torch.Tensor]:
    """Weights (2, 384) and bias (2,): the one score of a binary regression as the difference of two logits."""
    weight, bias = (np.stack([-values[0] / 2, values[0] / 2]) for values in (probe.coef_, probe.intercept_[:, None]))
    return {"weight": torch.tensor(weight, dtype=torch.float32), "bias": torch.tensor(bias[:, 0], dtype=torch.float32)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the spam filter's probe again.")
    parser.add_argument("--out", type=Path, default=student.PROBE, help="the safetensors file")
    arguments = parser.parse_args()
    probe, held_out = fitted("training"), mails.mails("evaluation")
    save_file(two_rows(probe), arguments.out)
    score = probe.score(vectors([mail.text for mail in held_out]), [mail.label for mail in held_out])
    count = 2 * mails.SPLITS["training"]
    print(f"{arguments.out.name}: fitted on {count} mails, names {score:.3f} of {len(held_out)} others right")


if __name__ == "__main__":
    main()
