"""What of a model folder is read, and everything that is refused before anything of it is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack.student.files import files_of
from edgepack.student.huggingface.folder import Settings, licence_of, open_folder, settings_of
from edgepack.student.load import is_known_to_hold_codes, load_student
from edgepack.student.spec import StudentError

BERT = {"model_type": "bert", "architectures": ["BertModel"]}


def folder(place: Path, config: object = BERT, *files: str) -> Path:
    """A folder with empty files: nothing here gets as far as reading weights."""
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    for name in files or ("model.safetensors",):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("{}")
    return place


def refused(place: Path) -> str:
    """What loading it as a student says, in one line."""
    with pytest.raises(StudentError) as caught:
        load_student(str(place))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _nothing(place: Path) -> None:
    (place / "model.safetensors").unlink()


def _pickle(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")


def _code(place: Path) -> None:
    folder(place, {**BERT, "auto_map": {"AutoModel": "modeling.Net"}})


def _code_of_tokenizer(place: Path) -> None:
    (place / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tokens.Tokens", null]}}')


def _adapter(place: Path) -> None:
    (place / "adapter_config.json").write_text("{}")


def _quantized(place: Path) -> None:
    folder(place, {**BERT, "quantization_config": {"quant_method": "gptq"}})


def _encoder_decoder(place: Path) -> None:
    folder(place, {"model_type": "t5", "is_encoder_decoder": True})


def _shard_elsewhere(place: Path) -> None:
    (place / "model.safetensors").unlink()
    (place / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    (place.parent / "secret.safetensors").write_text("")


def _module_elsewhere(place: Path) -> None:
    (place / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer", "path": "../other"}]')


def _weights_elsewhere(place: Path) -> None:
    folder(place, {**BERT, "transformers_weights": "../other/model.safetensors"})


def _modules_of_another_kind(place: Path) -> None:
    (place / "modules.json").write_text("5")


def _module_of_no_path(place: Path) -> None:
    (place / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer", "path": "a\\u0000"}]')


def _type_of_another_kind(place: Path) -> None:
    folder(place, {**BERT, "model_type": ["bert"]})


def _damaged(place: Path) -> None:
    (place / "config.json").write_text("{")


def _list(place: Path) -> None:
    (place / "config.json").write_text("[]")


def _no_config(place: Path) -> None:
    (place / "config.json").unlink()


def _misspelt(place: Path) -> None:
    (place / "edgepack.toml").write_text("sequence_lenght = 12\n")


def _unknown_task(place: Path) -> None:
    (place / "edgepack.toml").write_text('task = "translation"\n')


def _unknown_type(place: Path) -> None:
    folder(place, {"model_type": "no-such", "architectures": ["NoSuchModel"]})


@pytest.mark.parametrize(
    ("spoil", "said", "next_step"),
    [
        (_nothing, "holds no model.safetensors", "with its weights"),
        (_pickle, "pytorch_model.bin, a pickle", "save_pretrained"),
        (_code, "config.json names code of its own (auto_map), which is never run", "student.py:student"),
        (_code_of_tokenizer, "tokenizer_config.json names code of its own", "student.py:student"),
        (_adapter, "holds an adapter", "merge_and_unload"),
        (_quantized, "quantized already", "float weights"),
        (_encoder_decoder, "encoder-decoder", "student.py:student"),
        (_shard_elsewhere, "names '../secret.safetensors'", "every part"),
        (_module_elsewhere, "names '../other', outside the folder", "its own folder"),
        (_weights_elsewhere, "weights of its own (transformers_weights)", "rename it to model.safetensors"),
        (_modules_of_another_kind, "is not a list of modules", "save the model again"),
        (_module_of_no_path, "outside the folder", "its own folder"),
        (_type_of_another_kind, "no task is known", "edgepack.toml"),
        (_damaged, "cannot be read as JSON", "save the model again"),
        (_list, "holds a list, not an object", "save the model again"),
        (_no_config, "holds no config.json", "save_pretrained"),
        (_misspelt, "sequence_lenght", "sequence_length"),
        (_unknown_task, "task 'translation' is not known", "text-classification"),
        (_unknown_type, "architecture 'NoSuchModel' of model type 'no-such'", "edgepack.toml"),
    ],
)
def test_a_folder_that_cannot_be_a_student_says_why_and_what_to_do(
    tmp_path: Path, spoil: Callable[[Path], None], said: str, next_step: str
) -> None:
    place = folder(tmp_path / "net")
    spoil(place)
    cause, _, hint = refused(place).partition(" -> next: ")
    assert said in cause and next_step in hint


def test_weights_in_parts_are_taken_where_every_part_lies_beside_the_index(tmp_path: Path) -> None:
    parts = ("model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json")
    place = folder(tmp_path / "net", BERT, *parts)
    (place / parts[-1]).write_text(json.dumps({"weight_map": {"a": parts[0], "b": parts[1]}}))
    assert open_folder(place).exported is None
    (place / parts[1]).unlink()
    assert "names 'model-2.safetensors'" in refused(place)


def test_what_a_student_is_made_of_are_its_configuration_tokenizer_weights_and_modules(tmp_path: Path) -> None:
    held = ("model.safetensors", "vocab.txt", "tokenizer.json", "edgepack.toml", "README.md", "1_Pooling/config.json")
    place = folder(tmp_path / "net", BERT, *held, "training_args.bin", "picture.png", "onnx/model.onnx", "other/config.json")
    listed = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}, {"type": "x.Normalize", "path": "2_Norm"}]
    (place / "modules.json").write_text(json.dumps(listed))
    assert set(files_of(str(place))) == {f"net/{name}" for name in ("config.json", "modules.json", *held)}
    assert all(path.is_file() for path in files_of(str(place)).values())


def test_a_folder_of_another_name_is_another_student_and_one_that_moved_is_not(tmp_path: Path) -> None:
    """Its name is the student's in every pack."""
    (tmp_path / "elsewhere").mkdir()
    names = [set(files_of(str(folder(tmp_path / place)))) for place in ("net", "elsewhere/net", "other")]
    assert names[0] == names[1] and not names[0] & names[2]


def test_weights_that_an_exported_folder_keeps_under_another_name_count(tmp_path: Path) -> None:
    place = folder(tmp_path / "net", BERT, "model.onnx")
    weight = numpy_helper.from_array(np.zeros(2000, np.float32), "weight")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2000]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Add", ["x", "weight"], ["y"])], "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph), place / "model.onnx", save_as_external_data=True, location="weights.bin")
    assert files_of(str(place))["net/weights.bin"] == place / "weights.bin"


def test_a_folder_without_weights_that_an_exporter_wrote_is_its_onnx_file(tmp_path: Path) -> None:
    exported = folder(tmp_path / "exported", BERT, "model.onnx")
    both = folder(tmp_path / "both", BERT, "model.onnx", "model.safetensors")
    assert open_folder(exported).exported == exported / "model.onnx"
    assert open_folder(both).exported is None


def test_codes_in_an_exported_folder_are_known_before_it_is_loaded(tmp_path: Path) -> None:
    exported = folder(tmp_path / "exported", BERT, "model.onnx")
    assert not is_known_to_hold_codes(str(exported))
    x, y = (helper.make_tensor_value_info(name, kind, [1]) for name, kind in (("x", TensorProto.FLOAT), ("y", TensorProto.UINT8)))
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5])
    graph = helper.make_graph([helper.make_node("QuantizeLinear", ["x", "scale"], ["y"])], "g", [x], [y], [scale])
    onnx.save(helper.make_model(graph), exported / "model.onnx")
    assert is_known_to_hold_codes(str(exported))
    (exported / "model.safetensors").write_text("{}")
    assert not is_known_to_hold_codes(str(exported))


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# Net\nlicense: mit\n", "Apache-2.0"),
        ("---\nlicense: 'some thing/else'\n---\n", "LicenseRef-some-thing-else"),
        ("---\nlanguage: en\n---\nlicense: mit\n", "unspecified"),
        ("license: mit\n", "unspecified"),
        ("", "unspecified"),
    ],
)
def test_the_licence_is_the_front_matters_and_never_the_texts(tmp_path: Path, card: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence


def test_settings_are_read_from_beside_the_configuration(tmp_path: Path) -> None:
    assert settings_of(tmp_path) == Settings()
    (tmp_path / "edgepack.toml").write_text('task = "fill-mask"\nsequence_length = 32\nexporter = "optimum"\n')
    assert settings_of(tmp_path) == Settings("fill-mask", 32, "optimum")
    (tmp_path / "edgepack.toml").write_text('exporter = "tf2onnx"\n')
    with pytest.raises(StudentError, match="it is torch or optimum"):
        settings_of(tmp_path)
