"""A model folder answers as transformers does, in every task, and what is captured of it answers the same."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgepack.student.huggingface.load import from_huggingface
from edgepack.student.load import load_student
from edgepack.student.program import OnnxProgram
from edgepack.student.spec import StudentError
from edgepack.verify.metrics import sqnr_db
from tests.student.huggingface.folders import MODELS, rewritten, saved, transformers, with_tokenizer

# Of transformers in fp32 against themselves in float64: 115 to 133 dB; one wrong mask or constant shows as tens.
FP32_DB = 110.0

OUTPUTS = {
    "bert": {"last_hidden_state": (1, 64, 32)},
    "bert-classifier": {"logits": (1, 3)},
    "distilbert-answers": {"start_logits": (1, 64), "end_logits": (1, 64)},
    "roberta-tokens": {"logits": (1, 62, 5)},
    "vit": {"logits": (1, 4)},
    "resnet": {"logits": (1, 4)},
    "gpt2": {"logits": (1, 64, 60)},
    "llama": {"logits": (1, 64, 60)},
}


def held_out(example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Another input, with another length of text: what was baked in at capture shows."""
    random = np.random.default_rng(3)
    feed = {name: random.permuted(array, axis=-1) for name, array in example.items()}
    if "attention_mask" in feed:
        feed["attention_mask"] = (np.arange(feed["attention_mask"].shape[1]) < 11).astype(np.int64)[None]
    return {name: np.ascontiguousarray(array) for name, array in feed.items()}


# One of each kind of graph by default, the others in the longer suite.
_USUAL = ("bert-classifier", "llama", "vit")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in _USUAL else pytest.mark.slow) for name in MODELS])
def test_a_folder_answers_as_transformers_and_so_does_its_capture(tmp_path: Path, name: str) -> None:
    folder = saved(name, tmp_path / name)
    program = load_student(str(folder)).program
    feed = held_out(program.example())
    found, exact = program.run(feed), program.run_float64(feed)
    assert {key: value.shape for key, value in found.items()} == OUTPUTS[name]
    architecture = getattr(transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0])
    model = architecture.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(**{key: torch.from_numpy(value) for key, value in feed.items()})
    program.capture(tmp_path / "captured.onnx")
    captured = OnnxProgram(tmp_path / "captured.onnx").run(feed)
    for key, value in found.items():
        np.testing.assert_array_equal(value, expected[key].numpy())
        assert sqnr_db(exact[key], captured[key]) > FP32_DB


def test_names_types_labels_and_layouts_are_the_folders_own(tmp_path: Path) -> None:
    folder = with_tokenizer(saved("bert-classifier", tmp_path / "moods"))
    student = load_student(str(folder))
    described = student.describe("moods")
    assert [spec.name for spec in described.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert {(spec.dtype, spec.shape, spec.layout) for spec in described.inputs} == {("int64", (1, 64), "NT")}
    assert (described.name, described.labels) == ("moods", ("calm", "glad", "sad"))
    assert [(spec.name, spec.layout) for spec in described.outputs] == [("logits", "NC")]


def test_the_length_of_text_is_declared_beside_the_model_or_in_python(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path / "net")
    (folder / "edgepack.toml").write_text('sequence_length = 16\nname = "short"\nlicence = "MIT"\n')
    student = load_student(str(folder))
    assert student.program.inputs[0].shape == (1, 16)
    assert (student.name, student.licence) == ("short", "MIT")
    assert from_huggingface(folder, sequence_length=24).program.inputs[0].shape == (1, 24)
    with pytest.raises(StudentError, match="sequence_length is 65, and the model has 64 positions"):
        from_huggingface(folder, sequence_length=65)


def test_a_task_whose_weights_are_missing_is_refused_and_never_drawn_at_random(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path / "net")
    with pytest.raises(StudentError, match=r"has no weight '(bert.pooler|classifier)\S*' of the shape that text-classification needs"):
        from_huggingface(folder, task="text-classification")


def test_a_decoder_that_classifies_answers_at_the_end_of_a_padded_text(tmp_path: Path) -> None:
    folder = saved("gpt2-classifier", tmp_path / "net")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    text = torch.tensor([[7, 3, 9, 21, 5]])
    padded = np.zeros((2, 1, 16), np.int64)
    padded[0, 0, :5], padded[1, 0, :5] = text[0], 1
    program = from_huggingface(folder, sequence_length=16).program
    found = program.run(dict(zip(("input_ids", "attention_mask"), padded, strict=True)))["logits"]
    with torch.no_grad():
        assert sqnr_db(model(input_ids=text).logits.numpy(), found) > FP32_DB


def test_a_decoder_that_would_classify_its_padding_is_refused(tmp_path: Path) -> None:
    folder = rewritten(saved("gpt2-classifier", tmp_path / "net"), "config.json", pad_token_id=None)
    with pytest.raises(StudentError, match="no pad_token_id, by which GPT2ForSequenceClassification finds the end"):
        from_huggingface(folder)


def test_labels_that_skip_a_class_are_refused_and_not_moved_up(tmp_path: Path) -> None:
    folder = rewritten(saved("bert-classifier", tmp_path / "net"), "config.json", id2label={"0": "calm", "2": "glad", "3": "sad"})
    with pytest.raises(StudentError, match="id2label does not number the classes 0, 1, 2"):
        from_huggingface(folder)


@pytest.mark.parametrize("given", [{"exporter": "tf2onnx"}, {"lenght": 8}, {"sequence_length": "8"}, {"sequence_length": -1}])
def test_settings_in_python_are_held_to_the_same_as_those_of_the_file(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(StudentError, match="from_huggingface was called with wrong settings"):
        from_huggingface(saved("bert", tmp_path / "net"), **given)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = rewritten(saved("bert", tmp_path / "net"), "config.json", vocab_size=61)
    with pytest.raises(StudentError) as caught:
        from_huggingface(folder)
    assert "word_embeddings" in caught.value.cause or "size mismatch" in caught.value.cause


def test_half_precision_weights_run_in_float32(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path / "net")
    transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).to(torch.bfloat16).save_pretrained(folder)
    (found,) = load_student(str(folder)).program.outputs
    assert found.dtype == "float32"


def test_nothing_is_asked_of_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection fails loudly; a folder needs none."""
    import socket

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    folder = with_tokenizer(saved("bert-classifier", tmp_path / "net"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_student(str(folder)).program.outputs


def test_the_documented_factory_wraps_a_folders_module(tmp_path: Path) -> None:
    """docs/huggingface.md, its own words with a real folder."""
    folder = saved("bert-classifier", tmp_path / "net")
    page = (Path(__file__).parents[3] / "docs" / "huggingface.md").read_text()
    (text,) = re.findall(r"^    # student.py\n((?:    .*\n|\n)+)", page, re.M)
    (tmp_path / "student.py").write_text(textwrap.dedent(text).replace("path/to/folder", str(folder)))
    program = load_student(f"{tmp_path / 'student.py'}:student").program
    (found,) = program.run(program.example()).values()
    logits = from_huggingface(folder, sequence_length=64).program.run(program.example())["logits"]
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def test_without_transformers_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    folder = saved("bert", tmp_path / "net")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(StudentError) as caught:
        from_huggingface(folder, task="feature-extraction")
    assert "needs transformers" in caught.value.cause and "edgepack[huggingface]" in caught.value.hint
