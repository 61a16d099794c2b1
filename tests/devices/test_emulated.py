"""The emulated Pi: what it is, that its Pi 4 lacks what a Pi 4 lacks, and how its build and its transport refuse."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgepack.devices import emulated, userland
from edgepack.devices.address import Address
from edgepack.devices.debian import EmulationError
from edgepack.devices.emulated import EmulatedPi
from edgepack.devices.local import Local
from edgepack.devices.pi_files import PI4, PI5, Profile, files
from edgepack.devices.session import BusyError, opened
from edgepack.devices.transport import Transport, TransportError
from edgepack.devices.userland import Board, Progress, Userland

# What the device is, and which signal ended each of these instructions (0: none), executed in a child before a RET. Encodings of A64:
# sdot v0.4s, v1.16b, v2.16b (FEAT_DotProd); fadd v0.8h, v1.8h, v2.8h (FEAT_FP16); ldadd w0, w0, [sp] (FEAT_LSE, here adding 0).
PROBE = """
import ctypes, json, mmap, os, platform, struct
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
signals = {}
for name, word in {"nop": 0xD503201F, "sdot": 0x4E829420, "fp16": 0x4E421420, "lse": 0xB82003E0}.items():
    child = os.fork()
    if child == 0:
        page[:8] = struct.pack("<II", word, 0xD65F03C0)
        run(0)
        os._exit(0)
    signals[name] = os.waitpid(child, 0)[1]
open("new file", "w").write("made there")
model = open("/sys/firmware/devicetree/base/model").read()
auxiliary = ctypes.CDLL(None).getauxval
auxiliary.restype = ctypes.c_ulong
known = [platform.machine(), struct.calcsize("P") * 8, model, os.getcwd(), os.cpu_count()]
print(json.dumps([signals, auxiliary(16), *known, dict(os.environ)]))
"""
# Bits of AT_HWCAP (16) from the lowest, by the names of /proc/cpuinfo: arch/arm64/include/uapi/asm/hwcap.h.
HWCAP = [
    "fp",
    "asimd",
    "evtstrm",
    "aes",
    "pmull",
    "sha1",
    "sha2",
    "crc32",
    "atomics",
    "fphp",
    "asimdhp",
    "cpuid",
    "asimdrdm",
    "jscvt",
    "fcma",
    "lrcpc",
    "dcpop",
    "sha3",
    "sm3",
    "sm4",
    "asimddp",
]
NOTHING, ILLEGAL = 0, int(signal.SIGILL)


@pytest.mark.parametrize(("name", "profile", "lacking"), [("pi4", PI4, ILLEGAL), ("pi5", PI5, NOTHING)])
def test_it_is_a_64_bit_arm_that_stops_at_instructions_its_model_lacks(
    name: str, profile: Profile, lacking: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1")
    pi: Transport = request.getfixturevalue(name)
    board: Board = request.getfixturevalue(f"{name}_board")
    said, complained = pi.python(PROBE).communicate(timeout=60)
    signals, capabilities, machine, bits, model, cwd, cores, environment = json.loads(said or complained)
    assert signals == {"nop": NOTHING, "sdot": lacking, "fp16": lacking, "lse": lacking}
    offered = {name for bit, name in enumerate(HWCAP) if capabilities >> bit & 1}
    assert set(profile.features.split()) - offered == {"evtstrm"}, "what /proc/cpuinfo promises is executed"
    assert (machine, bits, model, cwd, cores) == ("aarch64", 64, f"{profile.model}\0", str(board.home), 4)
    assert model.removesuffix("\0").endswith("(emulated)")
    assert environment.keys() == {"EDGEPACK_LOCK", "HOME", "USER", "LOGNAME", "LANG", "PATH", "TMPDIR", "ORT_DISABLE_TELEMETRY"}
    assert (board.home / "new file").read_text() == "made there"
    assert list(board.home.glob("*core*")) == [], "a program that dies leaves no core file"


@pytest.mark.parametrize("profile", [PI4, PI5], ids=["pi4", "pi5"])
def test_a_pis_files_agree_with_each_other(profile: Profile) -> None:
    made = files(profile)
    lines = dict(line.split("\t: ") for line in made["proc/cpuinfo"].splitlines() if "\t: " in line)
    midr = int(made["sys/devices/system/cpu/cpu3/regs/identification/midr_el1"], 16)
    assert (midr >> 24, midr >> 20 & 15, midr >> 4 & 0xFFF, midr & 15) == (
        int(lines["CPU implementer"], 16),
        int(lines["CPU variant"], 16),
        int(lines["CPU part"], 16),
        int(lines["CPU revision"]),
    )
    frequency = "sys/devices/system/cpu/cpu0/cpufreq/scaling_{}_freq"
    least, now, most = (int(made[frequency.format(which)]) for which in ("min", "cur", "max"))
    assert least <= now <= most == {"pi4": 1_800_000, "pi5": 2_400_000}[profile.name]
    assert ("asimddp" in lines["Features"].split()) == (profile is PI5)
    assert profile.model in made["proc/cpuinfo"]


def test_files_go_there_and_back_and_its_system_can_be_read(pi5: EmulatedPi, pi5_board: Board, tmp_path: Path) -> None:
    content, steps = bytes(range(256)) * 10_000, list[tuple[int, int]]()
    (tmp_path / "model").write_bytes(content)
    pi5.send(tmp_path / "model", f"{pi5_board.home}/model", lambda done, total: steps.append((done, total)))
    assert steps == [(1 << 20, len(content)), (2 << 20, len(content)), (len(content), len(content))]
    pi5.fetch(f"{pi5_board.home}/model", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    pi5.fetch("/proc/cpuinfo", tmp_path / "cpuinfo")
    assert "Raspberry Pi 5" in (tmp_path / "cpuinfo").read_text()


def test_a_file_is_sent_nowhere_but_into_its_home(pi5: EmulatedPi, pi5_board: Board, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"weights")
    for outside in ("/etc/motd", f"{pi5_board.home}/../../etc/motd", "model"):
        with pytest.raises(TransportError, match="outside the emulated Pi's home -> next: send to a path below"):
            pi5.send(tmp_path / "model", outside)
    with pytest.raises(TransportError, match="No such file or directory"):
        pi5.send(tmp_path / "model", f"{pi5_board.home}/no/folder/model")
    with pytest.raises(TransportError, match="cannot copy /no/file from the emulated Pi: No such file or directory"):
        pi5.fetch("/no/file", tmp_path / "back")


def test_close_ends_what_runs_with_its_children(pi4_board: Board) -> None:
    pi = EmulatedPi(pi4_board)
    process = pi.python("import os, time; child = os.fork(); print(os.getpid(), flush=True) if child else None; time.sleep(600)")
    assert process.stdout is not None
    process.stdout.readline()
    pi.close()
    assert process.returncode == -signal.SIGKILL
    assert process.stdout.read() == b"", "the child held the other end of the pipe"


def test_a_damaged_build_is_told_from_a_program_that_fails(pi4: EmulatedPi, arm64: Userland, tmp_path: Path) -> None:
    assert pi4.explain(*_ending(pi4.python("import os; os.kill(os.getpid(), 4)"))) is None
    assert pi4.explain(*_ending(pi4.python("raise SystemExit(3)"))) is None
    for name in ("usr/bin", "home/pi"):
        (tmp_path / "root" / name).mkdir(parents=True)
    damaged = EmulatedPi(Board(arm64, PI4, tmp_path / "root"))
    with pytest.raises(TransportError, match=f"does not start: .*python3.* -> next: remove {arm64.folder} and try again: it is built anew"):
        damaged.python("")
    (tmp_path / "root" / "usr" / "bin" / "python3").symlink_to(arm64.root / "usr" / "bin" / "python3.11")
    without_loader = damaged.explain(*_ending(damaged.python("")))
    assert without_loader is not None
    assert "Could not open '/lib/ld-linux-aarch64.so.1'" in without_loader.cause


def test_who_measures_on_it_keeps_others_from_measuring_on_this_machine_and_the_other_way_round(pi4: EmulatedPi) -> None:
    """They share a processor, and one would find the other's time on it slow."""
    for one, other in ((pi4, Local()), (Local(), pi4)):
        with opened(one, exclusive=True), pytest.raises(BusyError), opened(other, exclusive=True):
            pass


def _ending(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    words = process.communicate(timeout=60)[1].decode()
    return process.returncode, words


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that builds filled, each slowly and with one file."""
    folders = []

    def fill(built: Userland, progress: Progress) -> None:
        built.folder.mkdir()
        folders.append(built.folder)
        time.sleep(0.3)
        (built.folder / "whole").touch()
        progress("done", 1, 1)

    monkeypatch.setattr(userland, "_fill", fill)
    return folders


def test_two_builds_at_once_make_one(filled: list[Path], tmp_path: Path) -> None:
    results: list[Userland] = []
    threads = [threading.Thread(target=lambda: results.append(userland.build(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(filled) == 1
    assert results[0] == results[1]
    assert (results[0].folder / "whole").exists()
    assert filled[0] != results[0].folder, "it is filled beside its place"


def test_a_build_that_is_killed_leaves_nothing_in_place_and_the_next_one_sweeps(filled: list[Path], tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from edgepack.devices import userland
def fill(built, progress):
    built.folder.mkdir()
    os.kill(os.getpid(), 9)
userland._fill = fill
userland.build(Path({str(tmp_path)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (leftover,) = [each for each in tmp_path.iterdir() if each.is_dir()]
    built = userland.build(tmp_path)
    assert leftover != built.folder
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([built.folder.name, "lock"])


@pytest.mark.parametrize("error", [EmulationError("no", "yes"), KeyboardInterrupt()])
def test_a_build_that_fails_leaves_nothing(error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fill(built: Userland, progress: Progress) -> None:
        built.folder.mkdir()
        raise error

    monkeypatch.setattr(userland, "_fill", fill)
    with pytest.raises(type(error)):
        userland.build(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["lock"]


def test_the_address_opens_the_board_of_its_name_from_the_users_cache(
    filled: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pi = emulated.connect(Address("qemu", "pi4"))
    assert (str(pi.address), pi.emulated) == ("qemu://pi4", True)
    assert filled[0].parent == tmp_path / "edgepack" / "emulated"
    assert Path(pi.site[0]).is_relative_to(tmp_path)


# (stand-ins for programs: name -> shell script, what the failure says, what comes next)
APT_FINDS_NOTHING = "echo reading; echo 'E: Unable to locate package python3:arm64' >&2; exit 100"
APT_HAS_NO_ROOM = "echo 'E: Write error - write (28: No space left on device)' >&2; exit 100"
REFUSALS: dict[str, tuple[dict[str, str], str, str]] = {
    "no-apt": ({}, "reading the lists of Debian packages needs apt-get, which this machine has not", "Debian 12's packages"),
    "not-debian": ({"apt-get": APT_FINDS_NOTHING}, "failed: E: Unable to locate package python3:arm64", "Debian 12's packages"),
    "full": ({"apt-get": APT_HAS_NO_ROOM}, "the disk is full", "XDG_CACHE_HOME"),
    "no-dpkg": ({"apt-get": "case $* in *install*) touch {archives}/a_1_arm64.deb;; esac"}, "needs dpkg-deb", "Debian 12's packages"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_machine_lacks_is_one_line_with_what_to_do(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs, cause, hint = REFUSALS[case]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "touch").symlink_to("/usr/bin/touch")
    for name, script in programs.items():
        archives = tmp_path / "cache" / f"{userland._key()}.partial" / "apt" / "archives"
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script.replace('{archives}', str(archives))}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(EmulationError) as refused:
        userland.build(tmp_path / "cache")
    assert cause in refused.value.cause
    assert hint in refused.value.hint
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 4


@pytest.mark.parametrize(("number", "cause"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be built in .*Read-only")])
def test_a_cache_that_cannot_be_written_is_one_line(number: int, cause: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fill(built: Userland, progress: Progress) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(userland, "_fill", fill)
    with pytest.raises(EmulationError, match=f"{cause}.*XDG_CACHE_HOME"):
        userland.build(tmp_path)
