"""USB, certificates, and addresses that cannot be."""

from __future__ import annotations

import json
import ssl
import stat
from pathlib import Path

import pytest

from edgepack.errors import DeviceError, InputError
from edgepack.serve.certificate import certificate
from edgepack.serve.serving import Place, serving
from edgepack.serve.usb import reversed_port
from tests.system.program import edgepack, failure


def adb(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Path:
    """An adb that notes how it was called."""
    place = folder / "adb"
    place.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\necho "adb: no devices/emulators found" >&2\nexit {code}\n')
    place.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "calls"


def test_the_phones_own_localhost_leads_here_and_no_longer_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = adb(tmp_path, monkeypatch)
    with reversed_port(4711, "R5CT"):
        assert calls.read_text().splitlines() == ["-s R5CT reverse tcp:4711 tcp:4711"]
    assert calls.read_text().splitlines()[1:] == ["-s R5CT reverse --remove tcp:4711"]


def test_an_adb_without_a_phone_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adb(tmp_path, monkeypatch, code=1)
    with pytest.raises(DeviceError, match="no devices/emulators found"), reversed_port(4711):
        pass


def test_a_certificate_is_of_the_address_and_its_key_is_nobody_elses(tmp_path: Path) -> None:
    made = certificate(tmp_path, "192.0.2.7")
    assert len(made.fingerprint.split(":")) == 32
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    decoded = ssl._ssl._test_decode_cert(str(tmp_path / "certificate.pem"))  # type: ignore[attr-defined]
    assert ("IP Address", "192.0.2.7") in decoded["subjectAltName"]


@pytest.mark.parametrize("host", ["example.org", "::1", "300.1.1.1", ""])
def test_a_host_that_is_no_address_of_this_machine_is_one_line(digits_pack: Path, host: str, tmp_path: Path) -> None:
    ended = edgepack("serve", digits_pack, "--host", host, cwd=tmp_path)
    assert ended.returncode == 2 and "IPv4 address" in failure(ended)


def test_https_is_for_every_address_but_this_machines_own() -> None:
    assert (Place().is_https, Place("192.0.2.7").is_https, Place("192.0.2.7", tls=False).is_secure) == (False, True, False)
    assert Place().is_secure and Place("192.0.2.7").is_secure


def test_a_pack_that_neither_browser_nor_app_runs_is_refused(pack: Path) -> None:
    manifest = json.loads((pack / "pack.json").read_text())
    for artifact in manifest["artifacts"]:
        artifact["failures"] = ["it is wrong"]
    (pack / "pack.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="nothing of this pack runs in a browser"), serving(pack, targets=["ios"]):
        pass


def test_a_pack_for_apps_alone_is_served_without_the_runtimes_of_browsers(digits_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with serving(digits_pack, targets=["ios"], save=False) as held:
        assert held.held.subjects == () and len(held.held.chosen) == 2


def test_no_pack_is_one_line(tmp_path: Path) -> None:
    ended = edgepack("serve", tmp_path, cwd=tmp_path)
    assert ended.returncode == 2 and "is not a pack" in failure(ended) and not list(tmp_path.iterdir())
