"""The C runner as a program for a phone: one the user built, or built here with the Android NDK; and the runtime it is to open.

With CMake and the NDK's toolchain file (what a user runs; this builds the same sources with the same flags):

    cmake -S edgepack/runner/native -B build -DANDROID_ABI=arm64-v8a -DANDROID_PLATFORM=android-26 \\
          -DCMAKE_TOOLCHAIN_FILE=$ANDROID_NDK_HOME/build/cmake/android.toolchain.cmake
    cmake --build build && export EDGEPACK_RUNNER=build/edgepack-runner
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path, PurePosixPath

from edgepack.errors import DeviceError, InputError, one_line

# Names a runner that is built already.
RUNNER = "EDGEPACK_RUNNER"
# Where people have the NDK, in the order that Android's own tools look.
_NDK = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_NDK")
# Android's name of an instruction set -> the compiler's, and e_machine of an ELF file (System V ABI).
_MACHINES = {"arm64-v8a": ("aarch64", 183), "x86_64": ("x86_64", 62)}
# The oldest Android that edgepack's target names.
_API = 26
# For 16 KB pages: Android 15 phones that have them load nothing that is aligned to less.
LINKING = ("-pie", "-pthread", "-Wl,-z,max-page-size=16384", "-ldl", "-lm")
_COMPILING = 120.0
# What the runtimes' libraries are called, the preferred first, in an AAR under jni/ABI and in a wheel.
_LIBRARIES = ("libLiteRt.so", "libtensorflowlite_c.so", "libtensorflowlite_jni.so", "libonnxruntime.so")
# What a library says it is: functions of the C interfaces, by the runner that speaks them. Names lie in it as they are.
_INTERFACES = {b"OrtGetApiBase\0": "ort", b"LiteRtCreateCompiledModel\0": "litert", b"TfLiteInterpreterCreate\0": "litert"}


class NativeError(DeviceError):
    """A runner that cannot be had."""


def runner_for(abi: str) -> Path:
    """The runner for phones of an ABI ("arm64-v8a"): the user's, or built now.

    Raises:
        NativeError: there is none, and no NDK to build it with; or it is of another machine.
    """
    named = os.environ.get(RUNNER)
    if named:
        return _checked(Path(named), abi)
    return _built(abi, _ndk_compiler(abi))


def _checked(path: Path, abi: str) -> Path:
    if not path.is_file():
        raise NativeError(f"{RUNNER} names {path}, which is no file", "build the runner: edgepack/runner/native/CMakeLists.txt says how")
    refuse_other_machine(path, abi)
    return path


def refuse_other_machine(path: Path, abi: str) -> None:
    """NativeError unless a file is an ELF program or library for an ABI."""
    if abi not in _MACHINES:
        raise NativeError(f"phones of the ABI {abi or 'unknown'} are not supported", f"use one of {', '.join(_MACHINES)}")
    with path.open("rb") as file:
        head = file.read(20)
    # e_ident, then e_type and e_machine, two bytes each.
    if head[:4] != b"\x7fELF" or int.from_bytes(head[18:20], "little") != _MACHINES[abi][1]:
        raise NativeError(f"{path.name} is not made for {abi}", f"take the one for {abi}")


def _ndk_compiler(abi: str) -> str:
    if abi not in _MACHINES:
        raise NativeError(f"phones of the ABI {abi or 'unknown'} are not supported", f"use one of {', '.join(_MACHINES)}")
    folder = next((os.environ[name] for name in _NDK if os.environ.get(name)), None)
    if folder is None:
        raise NativeError(
            "there is no runner for phones", f"set {_NDK[0]} to an Android NDK, or {RUNNER} to a runner that is built; the README says how"
        )
    name = f"{_MACHINES[abi][0]}-linux-android{_API}-clang"
    found = sorted(Path(folder).glob(f"toolchains/llvm/prebuilt/*/bin/{name}"))
    if not found:
        raise NativeError(f"the NDK in {folder} has no {name}", "install Android NDK r27 or newer")
    return str(found[0])


def _built(abi: str, compiler: str) -> Path:
    """In the user's cache, by what goes into it."""
    key = hashlib.sha256(repr([compiler, abi, LINKING]).encode())
    for name, content in sources().items():
        key.update(name.encode() + content)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "edgepack" / "runner"
    target = cache / key.hexdigest()[:16] / "edgepack-runner"
    if not target.exists():
        compile_runner([compiler], target)
    return target


def sources() -> dict[str, bytes]:
    """The runner's files by name."""
    folder = resources.files("edgepack.runner") / "native"
    return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir(), key=lambda each: each.name) if entry.is_file()}


def flags() -> list[str]:
    """How its files are compiled, here and by CMake."""
    return sources()["flags.txt"].decode().split()


def compile_runner(compiler: Sequence[str], target: Path) -> None:
    """Build the runner with a C compiler.

    Args:
        compiler: the command, with options of its own.
        target: the program; its folder is made.

    Raises:
        NativeError: it does not compile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = Path(scratch)
        for name, content in sources().items():
            (folder / name).write_bytes(content)
        files = [str(path) for path in sorted(folder.glob("*.c"))]
        _compile([*compiler, *flags(), *files, "-o", str(folder / "program"), *LINKING])
        (folder / "program").replace(target)


def _compile(command: list[str]) -> None:
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMPILING, check=True)
    except subprocess.CalledProcessError as error:
        last = next((line for line in error.stderr.splitlines() if "error" in line), "it said nothing")[:200]
        raise NativeError(f"the runner does not compile: {last}", "use the compiler of Android NDK r27 or newer") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeError(f"the runner does not compile: {one_line(error)}", "see that the compiler runs") from error


def runtime_library(path: Path, abi: str, folder: Path) -> Path:
    """The library of a runtime: the file itself, or taken out of an AAR or a wheel.

    Args:
        abi: the phone's. folder: where a library that lies in an archive is written.

    Raises:
        InputError: there is none for this ABI in it. NativeError: it is of another machine.
    """
    if not path.is_file():
        raise InputError(f"there is no runtime {path}", "name a .so file, an AAR or a wheel")
    found = _unpacked(path, abi, folder) if zipfile.is_zipfile(path) else path
    refuse_other_machine(found, abi)
    return found


def _unpacked(path: Path, abi: str, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        named = {member: PurePosixPath(member) for member in archive.namelist()}
        fitting = [member for member, inside in named.items() if inside.parts[0] != "jni" or inside.parts[1:2] == (abi,)]
        for library in _LIBRARIES:
            for member in fitting:
                # Wheels add the version: libonnxruntime.so.1.32.0.
                if named[member].name == library or named[member].name.startswith(f"{library}."):
                    target = folder / library
                    target.write_bytes(archive.read(member))
                    return target
    raise InputError(f"{path.name} holds no runtime for {abi}", f"it should have one of {', '.join(_LIBRARIES)}; a plain .so will do too")


def runner_of(library: Path) -> str:
    """Which artifacts a runtime's library runs: "ort" or "litert".

    Raises:
        InputError: it is none of those the runner speaks to.
    """
    content = library.read_bytes()
    for name, runner in _INTERFACES.items():
        if name in content:
            return runner
    raise InputError(
        f"{library.name} offers no C interface of LiteRT or ONNX Runtime", f"take {', '.join(_LIBRARIES[:2])} or {_LIBRARIES[-1]}"
    )
