"""What a Hugging Face model folder holds, read without transformers; what must not be loaded is refused here, before anything is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgepack.errors import one_line
from edgepack.student.spec import StudentError

CONFIG, MODULES, SETTINGS = "config.json", "modules.json", "edgepack.toml"
WEIGHTS, INDEX, EXPORTED = "model.safetensors", "model.safetensors.index.json", "model.onnx"
_CARD = "README.md"
# Files that decide what the student is: configuration, tokenizer and weights. Others (images of the card, other frameworks) are not read.
_READ = (".json", ".txt", ".model", ".safetensors", ".jinja")
# Weights that Python must unpickle, which runs whatever code the file holds.
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin", "model.pt", "model.pth")
_SAFER = "save it once, where you trust it: AutoModel.from_pretrained(folder).save_pretrained(folder), with the class of its architecture"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """edgepack.toml beside config.json: what the folder itself does not say. Everything may be left out.

    Attributes:
        task: a name of ``edgepack.student.huggingface.tasks``; "" for the one that config.json's architecture is of.
        sequence_length: of text inputs, in tokens; 0 for 128, or less where the model holds less.
        exporter: "torch" (torch.onnx.export with dynamo) or "optimum" (optimum-onnx).
        name: of the student; "" for the folder's.
        licence: of the weights, an SPDX expression; "" for what README.md's front matter says.
    """

    task: str = ""
    sequence_length: int = 0
    exporter: str = "torch"
    name: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if self.exporter not in ("torch", "optimum"):
            raise ValueError(f"exporter '{self.exporter}' is not known; it is torch or optimum")
        if self.sequence_length < 0:
            raise ValueError(f"sequence_length is {self.sequence_length}; give a number of tokens, or 0 for the usual one")


@dataclass(frozen=True)
class ModelFolder:
    """A folder that may be loaded.

    Attributes:
        root: the folder a user named; model: the one config.json and the weights lie in, the same unless modules.json names another.
        config: config.json; modules: (class with its package, folder) of modules.json, in order, () without one.
    """

    root: Path
    model: Path
    config: Mapping[str, Any]
    modules: tuple[tuple[str, Path], ...]

    @property
    def exported(self) -> Path | None:
        """The .onnx file of a folder that an exporter wrote, None where there are weights of safetensors."""
        return exported_in(self.model)

    @property
    def architecture(self) -> str:
        """The class that the weights are of, as config.json names it; "" where it does not."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer lies beside the model."""
        return any((self.model / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))

    def json(self, name: str) -> Mapping[str, Any]:
        """A JSON file beside config.json, {} where there is none."""
        return read_json(self.model / name) if (self.model / name).is_file() else {}


def exported_in(folder: Path) -> Path | None:
    """The .onnx file that is a folder's student: where weights of safetensors lie beside it, these are."""
    file = folder / EXPORTED
    return file if file.is_file() and not _has_safetensors(folder) else None


def is_model_folder(path: Path) -> bool:
    """Whether a path is a folder as Hugging Face's libraries save them."""
    return path.is_dir() and any((path / name).is_file() for name in (CONFIG, MODULES))


def open_folder(root: Path) -> ModelFolder:
    """Look at a folder.

    Raises:
        StudentError: it is none, holds code of its own, or has no weights that can be read safely.
    """
    if not is_model_folder(root):
        raise StudentError(f"folder {root} holds no {CONFIG}", "give a folder that save_pretrained wrote")
    modules = tuple(_modules(root))
    model = modules[0][1] if modules else root
    folder = ModelFolder(root, model, read_json(model / CONFIG), modules)
    for name in (CONFIG, "tokenizer_config.json", "preprocessor_config.json"):
        _refuse_own_code(model / name)
    _refuse_other_forms(folder)
    if folder.exported is None:
        _refuse_unsafe_weights(model)
    return folder


def settings_of(root: Path) -> Settings:
    """edgepack.toml of a folder, defaults where there is none.

    Raises:
        StudentError: it is not what it should be; the message says which field is wrong.
    """
    path = root / SETTINGS
    if not path.is_file():
        return Settings()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Settings)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise StudentError(f"{path} is wrong ({one_line(error)})", "it knows task, sequence_length, exporter, name and licence") from error


def folder_files(root: Path) -> dict[str, Path]:
    """The files that a folder's student depends on, by their path from it."""
    places = [root, *(place for place in _module_places(root) if place != root)]
    files = (file for place in places if place.is_dir() for file in sorted(place.iterdir()) if _is_read(file))
    return {file.relative_to(root).as_posix(): file for file in files}


def licence_of(root: Path) -> str:
    """The licence in the front matter of a model card, an SPDX expression; "unspecified" where there is none."""
    card = root / _CARD
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines() if card.is_file() else []
    if not lines or lines[0].strip() != "---":
        return "unspecified"
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if line.startswith("license:"):
            return _spdx(line.partition(":")[2].strip().strip("'\""))
    return "unspecified"


# The hub's own names of licences, in lower case, as SPDX writes them; others are kept under a name of their own.
_SPDX = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "cc0-1.0": "CC0-1.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "gpl-3.0": "GPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
}


def _spdx(name: str) -> str:
    if not name or name == "unknown":
        return "unspecified"
    return _SPDX.get(name.lower(), "LicenseRef-" + "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in name))


def _is_read(file: Path) -> bool:
    named = file.suffix in _READ or file.name in (SETTINGS, _CARD, EXPORTED) or file.name.startswith(f"{EXPORTED}_data")
    return named and file.is_file()


def _modules(root: Path) -> Iterator[tuple[str, Path]]:
    """(class, folder) of each module of modules.json, which sentence-transformers writes."""
    path = root / MODULES
    if not path.is_file():
        return
    listed = _json_value(path)
    for entry in listed if isinstance(listed, list) else [None]:
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or not isinstance(entry.get("path"), str):
            raise StudentError(f"{path} is not a list of modules with type and path", "save the model again with sentence-transformers")
        yield entry["type"], _place_of_module(root, entry["path"])


def _place_of_module(root: Path, path: str) -> Path:
    is_inside = "\0" not in path and not Path(path).is_absolute() and (root / path).resolve().is_relative_to(root.resolve())
    if not is_inside:
        raise StudentError(f"{root / MODULES} names {path!r}, outside the folder", "keep a model's modules in its own folder")
    return root / path


def _module_places(root: Path) -> list[Path]:
    """Folders of the modules; what is wrong with modules.json is for ``open_folder`` to say."""
    try:
        return [place for _, place in _modules(root)]
    except StudentError:
        return []


def read_json(path: Path) -> dict[str, Any]:
    held = _json_value(path)
    if not isinstance(held, dict):
        raise StudentError(f"{path} holds a {type(held).__name__}, not an object", "save the model again with save_pretrained")
    return held


def whole_number(held: Mapping[str, Any], name: str, default: int = 0) -> int:
    """A count of a configuration; the default where it names none.

    Raises:
        StudentError: it is not a whole number, or less than 0.
    """
    found = held.get(name)
    if found is None:
        return default
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise StudentError(f"{name} is {found!r:.80}, not a whole number", "save the model again with save_pretrained")
    return found


def _json_value(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudentError(f"{path} cannot be read as JSON ({one_line(error)})", "save the model again with save_pretrained") from error


def _refuse_own_code(path: Path) -> None:
    """StudentError for a configuration that names classes of Python files beside it."""
    if path.is_file() and read_json(path).get("auto_map"):
        raise StudentError(
            f"{path.name} names code of its own (auto_map), which is never run",
            "use a transformers release that has this architecture, or write a factory student.py:student around code you trust",
        )


def _refuse_other_forms(folder: ModelFolder) -> None:
    if (folder.model / "adapter_config.json").is_file():
        raise StudentError(f"{folder.root} holds an adapter", "merge it first: peft's merge_and_unload(), then save_pretrained")
    if folder.config.get("quantization_config"):
        raise StudentError(f"{CONFIG} says that the weights are quantized already", "give the folder of the float weights")
    if folder.config.get("transformers_weights"):
        # transformers would read that file in place of the one that is looked at here, from wherever it lies.
        raise StudentError(f"{CONFIG} names a file of weights of its own (transformers_weights)", f"rename it to {WEIGHTS}")
    if folder.config.get("is_encoder_decoder"):
        raise StudentError(
            f"{CONFIG} is of an encoder-decoder, which runs in a loop and not as one graph",
            "write a factory student.py:student that returns its encoder, or one step of its decoder",
        )


def _has_safetensors(model: Path) -> bool:
    return (model / WEIGHTS).is_file() or (model / INDEX).is_file()


def _refuse_unsafe_weights(model: Path) -> None:
    if not _has_safetensors(model):
        pickled = next((name for name in _PICKLED if (model / name).is_file()), None)
        if pickled:
            raise StudentError(f"{model} holds its weights as {pickled}, a pickle, which may run any code", _SAFER)
        raise StudentError(f"{model} holds no {WEIGHTS}", "download it with its weights, or save it with save_pretrained")
    shards = set(_shards(model))
    missing = sorted(name for name in shards if Path(name).name != name or not (model / name).is_file())
    if missing:
        raise StudentError(f"{INDEX} names '{missing[0]}', which does not lie beside it", "download every part of the weights")


def _shards(model: Path) -> Iterator[str]:
    """Files that the index names."""
    if (model / WEIGHTS).is_file():
        return
    files = read_json(model / INDEX).get("weight_map")
    if not isinstance(files, dict):
        raise StudentError(f"{model / INDEX} has no weight_map", "save the model again with save_pretrained")
    yield from map(str, files.values())
