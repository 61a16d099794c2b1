"""From tokens to one vector: the modules that sentence-transformers lists behind the model, as torch computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from edgepack.student.huggingface.folder import CONFIG, ModelFolder, read_json
from edgepack.student.spec import StudentError

# (token embeddings (N, T, C), mask (N, T)) -> (N, C)
Head = Callable[[Any, Any], Any]


def sentence_head(folder: ModelFolder) -> Head:
    """What modules.json lists after the model: a pooling, and whether its result is brought to length 1.

    Raises:
        StudentError: it lists something else.
    """
    # A class of another package, such as the folder's own code, keeps its whole name: what it computes is not known.
    kinds = [kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind for kind, _ in folder.modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise StudentError(
            f"modules.json lists {', '.join(kinds)}; known are Transformer, Pooling and Normalize",
            'set task = "feature-extraction" in edgepack.toml, or write a factory student.py:student',
        )
    pool = partial(_pooled, [_POOLINGS[mode] for mode in _modes(folder)])
    return pool if len(kinds) == 2 else lambda tokens, mask: _normalized(pool(tokens, mask))


def _modes(folder: ModelFolder) -> list[str]:
    """Names of the poolings whose results are joined: in the order in which they are listed, switches in that of ``_POOLINGS``."""
    held = read_json(folder.modules[1][1] / CONFIG)
    given = held.get("pooling_mode")
    named = [str(mode) for mode in (given if isinstance(given, list) else [given]) if mode]
    switched = [key.removeprefix("pooling_mode_") for key, value in held.items() if key.startswith("pooling_mode_") and value is True]
    known = list(_POOLINGS)
    switched = sorted((_SPELLINGS.get(mode, mode) for mode in switched), key=lambda mode: known.index(mode) if mode in known else -1)
    modes = [_SPELLINGS.get(mode, mode) for mode in named] or switched
    unknown = [mode for mode in modes if mode not in _POOLINGS]
    if unknown or not modes:
        raise StudentError(
            f"pooling '{(unknown or ['none'])[0]}' is not known; known are {', '.join(_POOLINGS)}",
            'set task = "feature-extraction" in edgepack.toml and pool in your application, or write a factory student.py:student',
        )
    return modes


_SPELLINGS = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "mean_sqrt_len"}


def _pooled(poolings: Sequence[Head], tokens: Any, mask: Any) -> Any:
    import torch

    parts = [pooling(tokens, mask) for pooling in poolings]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _normalized(vectors: Any) -> Any:
    """To length 1 (sentence_transformers Normalize: torch.nn.functional.normalize, epsilon 1e-12)."""
    import torch

    return torch.nn.functional.normalize(vectors, dim=1)


def _first(tokens: Any, mask: Any) -> Any:
    return tokens[:, 0]


def _largest(tokens: Any, mask: Any) -> Any:
    """Over tokens that are not masked."""
    import torch

    return torch.where(mask[:, :, None].bool(), tokens, -1e9).amax(dim=1)


def _mean(tokens: Any, mask: Any) -> Any:
    total, count = _sums(tokens, mask)
    return total / count


def _mean_sqrt(tokens: Any, mask: Any) -> Any:
    total, count = _sums(tokens, mask)
    return total / count.sqrt()


def _sums(tokens: Any, mask: Any) -> tuple[Any, Any]:
    """(sum over tokens that are not masked (N, C), their count (N, 1)); 1e-9 as in sentence_transformers' Pooling."""
    weight = mask[:, :, None].to(tokens.dtype)
    return (tokens * weight).sum(dim=1), weight.sum(dim=1).clamp(min=1e-9)


# In the order in which sentence-transformers joins those that are switched on.
_POOLINGS: dict[str, Head] = {"cls": _first, "max": _largest, "mean": _mean, "mean_sqrt_len": _mean_sqrt}
