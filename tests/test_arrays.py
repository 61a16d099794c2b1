"""Arrays of strangers: no header is believed, no archive unpacks to more than it should."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgepack.arrays import load_arrays, refuse_claims, save_arrays


def npy(shape: str, kind: str = "<f4", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def archived(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_arrays_come_back_compressed_or_not(tmp_path: Path) -> None:
    held = {"x": np.arange(6.0).reshape(2, 3), "n": np.asarray(3), "zeros": np.zeros(10**5)}
    np.savez_compressed(tmp_path / "a.npz", **held)
    save_arrays(tmp_path / "b.npz", held)
    for name in ("a.npz", "b.npz"):
        found = load_arrays(tmp_path / name)
        assert all(np.array_equal(found[key], held[key]) for key in held)


@pytest.mark.parametrize("shape", ["(1099511627776,)", "(1048576, 1048576)", "(-1,)", "(2, 2)"])
def test_a_header_that_claims_more_than_is_there_is_refused_before_it_is_allocated(tmp_path: Path, shape: str) -> None:
    path = archived(tmp_path / "a.npz", {"x.npy": npy(shape, data=bytes(12))})
    with pytest.raises(ValueError, match="more than it holds"):
        load_arrays(path)
    (tmp_path / "a.npy").write_bytes(npy(shape, data=bytes(12)))
    with pytest.raises(ValueError, match="more than it holds"):
        refuse_claims(tmp_path / "a.npy")


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    many = io.BytesIO()
    np.lib.format.write_array(many, np.zeros(2**23, np.float64))
    path = archived(tmp_path / "a.npz", {f"{index}.npy": many.getvalue() for index in range(5)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="many times its size"):
        load_arrays(path)


@pytest.mark.parametrize("shape", ["((((((1", "(1,)*9", "x", "()()"])
def test_a_header_that_is_none_is_refused(tmp_path: Path, shape: str) -> None:
    path = archived(tmp_path / "a.npz", {"x.npy": npy(shape)})
    with pytest.raises(ValueError):
        load_arrays(path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        load_arrays(archived(tmp_path / "a.npz", {"x.npy": npy("(1,)", "|O", b"cos\nsystem\n(S'touch owned'\ntR." + bytes(8))}))
