"""The torch module of a model folder: named tensors in by position, the fields of its answer out by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from edgepack.errors import one_line
from edgepack.student.huggingface.folder import CONFIG, ModelFolder
from edgepack.student.huggingface.offline import transformers_offline
from edgepack.student.huggingface.sentence import Head
from edgepack.student.huggingface.tasks import Task
from edgepack.student.spec import StudentError

# Weights of BERT's kin that only the output "pooler_output" depends on, which no task here asks for; checkpoints often lack them.
_UNUSED = "pooler."


def load_model(folder: ModelFolder, task: Task) -> Any:
    """The model in evaluation mode, float32, with attention as plain products and softmax.

    Raises:
        StudentError: transformers does not know or cannot load it, or weights are missing.
    """
    transformers = transformers_offline()
    auto = getattr(transformers, task.auto)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    try:
        model, found = auto.from_pretrained(str(folder.model), dtype="float32", attn_implementation="eager", **options)
    except Exception as error:
        raise StudentError(
            f"transformers {transformers.__version__} cannot load {folder.root} for {task.name} ({one_line(error)})",
            "load it with transformers alone first, or set another task in edgepack.toml",
        ) from error
    _refuse_missing(found, folder, task)
    _refuse_unknown_padding(model, task)
    # Where the folder lies is no part of what the student is.
    model.config._name_or_path = model.name_or_path = ""
    return model.eval()


def _refuse_missing(found: Mapping[str, Any], folder: ModelFolder, task: Task) -> None:
    """StudentError for weights that transformers would draw at random."""
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(_UNUSED))
    wrong = [str(entry[0]) for entry in found.get("mismatched_keys", ())]
    if missing or wrong:
        raise StudentError(
            f"{folder.root} has no weight '{(missing or wrong)[0]}' of the shape that {task.name} needs, and "
            f"{len(missing) + len(wrong) - 1} others",
            "give a folder that was trained for this task, or set another task in edgepack.toml",
        )


def _refuse_unknown_padding(model: Any, task: Task) -> None:
    """StudentError for a classifier that answers at the text's last token, and would take the padding's for it.

    transformers finds that token by ``config.pad_token_id``, and takes the last of all where there is none.
    """
    looks_for_it = "pad_token_id" in inspect.unwrap(type(model).forward).__code__.co_names
    if task.name == "text-classification" and looks_for_it and model.config.pad_token_id is None:
        raise StudentError(
            f"{CONFIG} names no pad_token_id, by which {type(model).__name__} finds the end of a padded text",
            "write the id that its texts are padded with: that of the end of text, where nothing else was chosen",
        )


def accepted(model: Any, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that the model's forward takes."""
    parameters = inspect.signature(model.forward).parameters
    return [name for name in names if name in parameters]


def answering(model: Any, inputs: Sequence[str], task: Task, head: Head | None) -> Any:
    """A torch.nn.Module that takes ``inputs`` by position and returns the task's outputs by name.

    Args:
        head: from tokens and their mask to the sentence's vector; None for the model's own answer.
    """
    import torch

    fixed = dict.fromkeys(accepted(model, ("use_cache",)), False)

    class Answering(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> dict[str, Any]:
            given = dict(zip(inputs, tensors, strict=True))
            answer = self.model(**given, **fixed, return_dict=True)
            if head is not None:
                return {task.outputs[0][0]: head(answer.last_hidden_state, given["attention_mask"])}
            return {name: answer[name] for name, _ in task.outputs}

    return Answering()
