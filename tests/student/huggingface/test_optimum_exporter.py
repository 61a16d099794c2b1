"""optimum-onnx as the exporter, and the folders it writes as students."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepack.student.huggingface.load import from_huggingface
from edgepack.student.load import load_student
from edgepack.student.program import OnnxProgram
from edgepack.student.spec import StudentError
from edgepack.verify.metrics import sqnr_db
from tests.student.huggingface.folders import saved, with_pooling, with_tokenizer
from tests.student.huggingface.test_load import FP32_DB, held_out

pytest.importorskip("optimum.exporters.onnx", reason="pip install 'edgepack[huggingface]'")


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("bert-classifier", ["input_ids", "attention_mask", "token_type_ids"]),
        ("gpt2", ["input_ids", "attention_mask", "position_ids"]),
        pytest.param("distilbert-answers", ["input_ids", "attention_mask"], marks=pytest.mark.slow),
        pytest.param("vit", ["pixel_values"], marks=pytest.mark.slow),
    ],
)
def test_what_optimum_captures_has_fixed_sizes_and_answers_as_the_student(tmp_path: Path, name: str, inputs: list[str]) -> None:
    folder = saved(name, tmp_path / name)
    (folder / "edgepack.toml").write_text('exporter = "optimum"\n')
    program = load_student(str(folder)).program
    program.capture(tmp_path / "captured.onnx")
    captured = OnnxProgram(tmp_path / "captured.onnx")
    assert [spec.name for spec in captured.inputs] == [spec.name for spec in program.inputs] == inputs
    assert [spec.shape for spec in captured.inputs] == [spec.shape for spec in program.inputs]
    feed = held_out(program.example())
    exact, found = program.run_float64(feed), captured.run(feed)
    assert list(found) == list(exact)
    assert all(sqnr_db(exact[key], found[key]) > FP32_DB for key in exact)


def test_a_folder_that_optimum_wrote_is_a_student_of_the_declared_length(tmp_path: Path) -> None:
    from optimum.exporters.onnx import main_export

    folder = with_tokenizer(saved("bert-classifier", tmp_path / "net"))
    main_export(str(folder), tmp_path / "exported", task="text-classification", local_files_only=True, do_validation=False)
    (tmp_path / "exported" / "edgepack.toml").write_text("sequence_length = 24\n")
    ours, theirs = from_huggingface(folder, sequence_length=24), load_student(str(tmp_path / "exported"))
    assert {spec.name: spec.shape for spec in theirs.program.inputs} == {spec.name: (1, 24) for spec in ours.program.inputs}
    assert theirs.labels == ("calm", "glad", "sad")
    feed = held_out(ours.program.example())
    np.testing.assert_allclose(theirs.program.run(feed)["logits"], ours.program.run(feed)["logits"], rtol=1e-4, atol=1e-6)


def test_what_optimum_does_not_export_names_the_other_exporter(tmp_path: Path) -> None:
    folder = with_pooling(with_tokenizer(saved("bert", tmp_path / "net")), "mean_tokens")
    with pytest.raises(StudentError) as caught:
        from_huggingface(folder, exporter="optimum").program.capture(tmp_path / "x.onnx")
    assert "before the pooling" in caught.value.cause and 'exporter = "torch"' in caught.value.hint
