"""A package that found no room is refused: coremltools passes over a manifest that it could not write."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepack.backends.coreml.package import _written_whole
from edgepack.errors import StepError


def test_a_draft_of_the_manifest_that_stayed_empty_is_no_part_of_a_package(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="manifest could not be written") as caught, _written_whole(tmp_path):
        (tmp_path / "Data").mkdir()
        (tmp_path / "Manifest.json").touch()
        (tmp_path / "Manifest.03256793-04dc-46af-9a24-03016eb57211").touch()
    assert "free some space" in caught.value.hint


def test_what_coremltools_says_of_a_full_disk_is_said_in_our_words_and_nothing_else_is(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="could not be written"), _written_whole(tmp_path):
        raise RuntimeError("[MIL FileWriter]: Unknown error occurred while writing data to the file.")
    with pytest.raises(RuntimeError, match="of another kind"), _written_whole(tmp_path):
        raise RuntimeError("an error of another kind")
