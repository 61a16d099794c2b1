"""From a Hugging Face model folder to a student."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepack.student.huggingface.folder import ModelFolder, Settings, licence_of, open_folder, settings_of, whole_number
from edgepack.student.huggingface.images import PROCESSOR, image_size, preprocessing_of
from edgepack.student.huggingface.module import accepted, answering, load_model
from edgepack.student.huggingface.optimum_exporter import export_with_optimum, optimum_config
from edgepack.student.huggingface.sentence import sentence_head
from edgepack.student.huggingface.tasks import SENTENCE, Task, task_of
from edgepack.student.huggingface.tokens import length_of, tokenizer_of
from edgepack.student.program import OnnxProgram, Student
from edgepack.student.spec import StudentError, TensorSpec

_IMAGE = "pixel_values"
# Where neither the image processor nor the network says another.
_USUAL_IMAGE = (224, 224)
# Three channels of float32 of such an image have 12 GiB: what asks for more is a slip.
_LARGEST_SIDE = 2**15
# Of the example: the rest is padding, so that the mask is looked at from the first capture on.
_FILLED = 3 / 4
_TEXT = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def from_huggingface(folder: Path | str, **settings: Any) -> Student:
    """The student that a Hugging Face model folder holds.

    Its inputs are one sample of fixed size: text as the names the tokenizer gives, int64 (1, sequence_length); images as "pixel_values",
    float32 (1, C, H, W). Its outputs are the task's. Nothing is looked up on a network, weights come from safetensors alone, and no code
    of the folder runs.

    Args:
        folder: that ``save_pretrained``, sentence-transformers or ``optimum-cli export onnx`` wrote.
        settings: fields of ``edgepack.student.huggingface.folder.Settings``, before those of an edgepack.toml in the folder.

    Raises:
        StudentError: the folder is not one of these, its task is not known, or weights are missing.
    """
    root = Path(folder)
    held, chosen = open_folder(root), _overridden(settings_of(root), settings)
    named = msgspec.structs.replace(chosen, name=chosen.name or root.resolve().name, licence=chosen.licence or licence_of(root))
    return _from_exported(held, named) if held.exported is not None else _from_weights(held, named)


def _overridden(held: Settings, given: Mapping[str, Any]) -> Settings:
    try:
        return msgspec.convert({**msgspec.structs.asdict(held), **given}, Settings)
    except msgspec.ValidationError as error:
        raise StudentError(
            f"from_huggingface was called with wrong settings ({error})", f"it takes {', '.join(Settings.__struct_fields__)}"
        ) from error


def _from_weights(folder: ModelFolder, settings: Settings) -> Student:
    import torch

    task = task_of(folder, settings.task)
    model = load_model(folder, task)
    example = _example(folder, model, task, settings)
    names = list(example)
    exporter = partial(export_with_optimum, model, {name: array.shape for name, array in example.items()}, task)
    return Student(
        answering(model, names, task, sentence_head(folder) if task is SENTENCE else None),
        [torch.from_numpy(array) for array in example.values()],
        [_spec(name) for name in names],
        [TensorSpec(name, layout=layout) for name, layout in task.outputs],
        name=settings.name,
        preprocessing=preprocessing_of(folder, example[_IMAGE].shape[1]) if _IMAGE in example else None,
        labels=_labels(folder.config) if task.labelled else (),
        licence=settings.licence,
        exporter=exporter if settings.exporter == "optimum" else None,
    )


def _from_exported(folder: ModelFolder, settings: Settings) -> Student:
    """The .onnx file of a folder that an exporter wrote, with sizes for its open dimensions."""
    assert folder.exported is not None
    found = OnnxProgram(folder.exported).inputs
    sizes = _sizes(folder, settings)
    inputs = [msgspec.structs.replace(spec, shape=_closed(spec, sizes.get(spec.name))) for spec in found]
    images = [spec for spec in inputs if spec.name == _IMAGE]
    return Student(
        folder.exported,
        inputs=[msgspec.structs.replace(spec, layout=_spec(spec.name).layout) for spec in inputs],
        name=settings.name,
        preprocessing=preprocessing_of(folder, sizes[_IMAGE][1]) if images and len(inputs) == 1 else None,
        labels=_labels(folder.config) if folder.architecture.endswith("Classification") else (),
        licence=settings.licence,
    )


def _closed(spec: TensorSpec, sizes: tuple[int, ...] | None) -> tuple[int | str, ...] | None:
    """Given sizes for open dimensions of an input whose meaning is known; others stay open."""
    held = spec.shape or ()
    if sizes is None or len(sizes) != len(held):
        return spec.shape
    return tuple(size if isinstance(size, int) else given for size, given in zip(held, sizes, strict=True))


def _spec(name: str) -> TensorSpec:
    return TensorSpec(name, layout="NCHW" if name == _IMAGE else "NT")


def _sizes(folder: ModelFolder, settings: Settings) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs whose meaning is known."""
    text = (1, length_of(folder, settings.sequence_length))
    return {**dict.fromkeys(_TEXT, text), _IMAGE: (1, whole_number(folder.config, "num_channels", 3), *_image_size(folder))}


def _image_size(folder: ModelFolder) -> tuple[int, int]:
    """(height, width): the image processor's, else the network's own."""
    held = folder.config.get("image_size")
    own = tuple(held) if isinstance(held, list) and len(held) == 2 else (held, held)
    size = image_size(folder.json(PROCESSOR)) or (own if held is not None else _USUAL_IMAGE)
    if not all(isinstance(side, int) and 0 < side <= _LARGEST_SIDE for side in size):
        raise StudentError(f"the image of {folder.root} is {size[0]!r:.40} by {size[1]!r:.40}", "write whole numbers of pixels")
    return size


def _example(folder: ModelFolder, model: Any, task: Task, settings: Settings) -> dict[str, NDArray[Any]]:
    """Drawn inputs, by name in the order of ``forward``.

    Raises:
        StudentError: the model takes neither text nor an image.
    """
    random, sizes = np.random.default_rng(0), _sizes(folder, settings)
    if model.main_input_name == _IMAGE:
        return {_IMAGE: random.standard_normal(sizes[_IMAGE]).astype(np.float32)}
    if model.main_input_name != _TEXT[0]:
        raise StudentError(
            f"{folder.root} takes '{model.main_input_name}'; known are text and images", "write a factory student.py:student around it"
        )
    named = _asked_by_optimum(model, task) if settings.exporter == "optimum" else _asked_by_tokenizer(folder)
    names = accepted(model, [name for name in _TEXT if name in named])
    return {name: _text_example(name, sizes[name], model, random) for name in names}


def _asked_by_tokenizer(folder: ModelFolder) -> Sequence[str]:
    named: Sequence[str] = tokenizer_of(folder).model_input_names if folder.has_tokenizer else _TEXT[:2]
    return named


def _asked_by_optimum(model: Any, task: Task) -> Sequence[str]:
    return list(optimum_config(model, task).inputs)


def _text_example(name: str, size: tuple[int, ...], model: Any, random: np.random.Generator) -> NDArray[np.int64]:
    """Any tokens, then padding."""
    held = np.zeros(size, np.int64)
    filled = math.ceil(_FILLED * size[1])
    if name == "attention_mask":
        held[:, :filled] = 1
    if name == "position_ids":
        held[:] = np.arange(size[1])
    if name == "input_ids":
        # Some configurations say -1 for "none".
        held[:] = max(model.config.pad_token_id or 0, 0)
        held[:, :filled] = random.integers(0, model.get_input_embeddings().num_embeddings, (1, filled))
    return held


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of classes by their index, () where config.json has none."""
    names = config.get("id2label")
    if not isinstance(names, Mapping):
        return ()
    indices = [str(index) for index in range(len(names))]
    if set(names) != set(indices):
        raise StudentError("id2label does not number the classes 0, 1, 2 and so on", "name every class in config.json")
    return tuple(str(names[index]) for index in indices)
