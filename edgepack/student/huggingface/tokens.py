"""Text as a student takes it: the tokenizer of a model folder, cut and padded to the declared length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.errors import one_line
from edgepack.student.huggingface.folder import ModelFolder, open_folder, settings_of, whole_number
from edgepack.student.huggingface.offline import transformers_offline
from edgepack.student.spec import StudentError

# Tokens of a text input that nothing declares: most sentences, at a quarter of the work that 256 take in attention.
USUAL_LENGTH = 128
_SENTENCE = "sentence_bert_config.json"


class Tokens:
    """Texts to samples.

    Args:
        folder: of the model; sequence_length: in tokens, 0 for what the folder declares.

    Raises:
        StudentError: there is no tokenizer, or it cannot be loaded.
    """

    def __init__(self, folder: Path | str, sequence_length: int = 0) -> None:
        held = open_folder(Path(folder))
        self.length = length_of(held, sequence_length or settings_of(held.root).sequence_length)
        self._tokenizer = tokenizer_of(held)
        self._lower = bool(held.json(_SENTENCE).get("do_lower_case"))

    def __call__(self, text: str) -> dict[str, NDArray[np.int64]]:
        """One sample: input name -> ids (or mask, or types) of shape (1, sequence_length); longer texts are cut at their end."""
        cut = {"truncation": True, "max_length": self.length, "padding": "max_length"}
        found = self._tokenizer(text.lower() if self._lower else text, return_tensors="np", **cut)
        return {str(name): np.asarray(array, np.int64) for name, array in found.items()}

    def samples(self, texts: Iterable[str]) -> Iterator[dict[str, NDArray[np.int64]]]:
        """A sample for each text, as a calibration manifest's python source returns them."""
        return (self(text) for text in texts)


def tokenizer_of(folder: ModelFolder) -> Any:
    """transformers' tokenizer of a folder.

    Raises:
        StudentError: there is none, or it cannot be loaded or cannot pad.
    """
    if not folder.has_tokenizer:
        raise StudentError(f"{folder.root} holds no tokenizer", "save it beside the model: tokenizer.save_pretrained(folder)")
    transformers = transformers_offline()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder.model), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise StudentError(f"the tokenizer of {folder.root} does not load ({one_line(error)})", "save it again beside the model") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _padding(tokenizer, folder.config.get("pad_token_id"))
    if tokenizer.pad_token is None:
        raise StudentError(f"the tokenizer of {folder.root} has no token to pad with", "name its pad_token in tokenizer_config.json")
    # Positions count from the first token, whatever the length of the text.
    tokenizer.padding_side = "right"
    return tokenizer


def _padding(tokenizer: Any, held: Any) -> Any:
    """Decoders are trained without one, and what stands behind the text is masked: the model's own, by which classifiers find the text's
    end, else the end of text."""
    is_known = isinstance(held, int) and 0 <= held < len(tokenizer)
    return tokenizer.convert_ids_to_tokens(held) if is_known else tokenizer.eos_token


def length_of(folder: ModelFolder, asked: int) -> int:
    """Tokens of a text input: what was asked for, else the usual length, or less where the model holds less.

    Raises:
        StudentError: the model holds fewer positions than were asked for.
    """
    most = _positions(folder.config)
    if asked and most and asked > most:
        raise StudentError(f"sequence_length is {asked}, and the model has {most} positions", f"give at most {most}")
    declared = whole_number(folder.json(_SENTENCE), "max_seq_length")
    return asked or min(length for length in (USUAL_LENGTH, most, declared) if length)


def _positions(config: Mapping[str, Any]) -> int:
    """Positions that have an embedding, 0 where that is not known."""
    given = whole_number(config, "max_position_embeddings") or whole_number(config, "n_positions")
    # RoBERTa and its kin count positions from the padding token's index on: two of the table are never a token's.
    reserved = whole_number(config, "pad_token_id") + 1 if config.get("model_type") in _OFFSET else 0
    return given - reserved if given else 0


_OFFSET = ("roberta", "xlm-roberta", "camembert", "longformer", "xlm-roberta-xl", "data2vec-text", "mpnet", "roberta-prelayernorm")
