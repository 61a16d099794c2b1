"""``edgepack build folder``: a model folder of Hugging Face's libraries, from the command line to a pack."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from edgepack.pack.files import load_pack
from tests.system.program import edgepack, failure

pytest.importorskip("transformers")
# One target by default; tests/system/test_minilm.py builds a folder for all three.
CHOICE = ("-t", "android", "-s", "fp32")
OPTIONS = (*CHOICE, "--latency", "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.student.huggingface.folders import saved, with_pooling, with_tokenizer

    place = with_pooling(with_tokenizer(saved("bert", tmp_path_factory.mktemp("models") / "tiny-sentences.v1")), "mean_tokens")
    (place / "README.md").write_text("---\nlicense: mit\n---\n")
    return place


def test_a_folder_becomes_a_pack_that_holds_its_gates_and_is_built_again_only_when_it_changed(folder: Path, tmp_path: Path) -> None:
    built = edgepack("build", folder, *OPTIONS, "-o", "pack", "--store", "store", cwd=tmp_path)
    assert built.returncode == 0, built.stderr + built.stdout
    pack = load_pack(tmp_path / "pack")
    assert {artifact.target for artifact in pack.artifacts} == {"android"}
    assert all(artifact.failures == () for artifact in pack.artifacts)
    assert (pack.student.name, pack.student.source, pack.student.licence) == ("tiny-sentences.v1", "tiny-sentences.v1", "MIT")
    # Where it lies does not matter, what it says does.
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    again = edgepack("plan", moved, *CHOICE, "-o", "pack", "--store", "store", cwd=tmp_path)
    assert re.search(r"^capture +held", again.stdout, re.M), again.stderr + again.stdout
    (moved / "edgepack.toml").write_text("sequence_length = 32\n")
    changed = edgepack("plan", moved, *CHOICE, "-o", "pack", "--store", "store", cwd=tmp_path)
    assert re.search(r"^capture +runs", changed.stdout, re.M), changed.stderr + changed.stdout


def test_a_folder_of_pickled_weights_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    place = shutil.copytree(folder, tmp_path / "pickled")
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    ended = edgepack("build", place, *OPTIONS, "-o", "pack", cwd=tmp_path)
    assert ended.returncode == 2
    assert "a pickle, which may run any code -> next: save it once" in failure(ended)
