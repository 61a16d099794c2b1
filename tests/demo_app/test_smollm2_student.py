"""The loop around SmolLM2's step, without its weights: tests/system/test_smollm2.py has them."""

from __future__ import annotations

import numpy as np
import pytest

from demo_app.students.smollm2.student import CONTEXT, generate

Arrays = dict[str, np.ndarray]


def counting(feed: Arrays) -> Arrays:
    """The next token is the one's successor; the caches count the steps."""
    logits = np.zeros((1, 200), np.float32)
    logits[0, feed["token"][0] + 1] = 1
    assert np.all(feed["keys"] == feed["position"][0])
    return {"logits": logits, "new_keys": feed["keys"] + 1, "new_values": feed["values"] + 1}


def test_it_goes_on_from_its_own_words_and_hands_the_caches_on() -> None:
    assert generate(counting, [7, 8, 9], 3) == [10, 11, 12]
    assert len(generate(counting, [0], CONTEXT)) == CONTEXT


@pytest.mark.parametrize(("prompt", "count"), [([], 3), ([0], CONTEXT + 1), ([0] * (CONTEXT + 1), 1)])
def test_more_than_the_caches_hold_is_refused(prompt: list[int], count: int) -> None:
    with pytest.raises(ValueError, match="at most 129 together"):
        generate(counting, prompt, count)
