"""The C runner: built by both of its recipes, refusing what is no request, and speaking to each kind of library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import ai_edge_litert
import numpy as np
import onnxruntime
import pytest

from edgepack.arrays import Arrays
from edgepack.devices import native
from edgepack.devices.native import NativeError, compile_runner, runner_for, runner_of, runtime_library
from edgepack.devices.native_request import Answer, answer_of, input_bytes, output_arrays, request_lines
from edgepack.devices.runner_process import Request, RunnerError
from edgepack.errors import InputError

FAKES = Path(__file__).parents[1] / "fakes"
LITERT = Path(ai_edge_litert.__path__[0]) / "libLiteRt.so"
ORT = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
# Memory errors and undefined behaviour end the program.
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner for this machine, which ends at the first wrong access."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler here (Debian package gcc)")
    target = tmp_path_factory.mktemp("runner") / "edgepack-runner"
    compile_runner(["gcc", *SANITIZED], target)
    return target


def ask(runner: Path, request: bytes, folder: Path) -> tuple[int, dict[str, object], str]:
    """Exit code, response, words."""
    path = folder / "request"
    path.write_bytes(request)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [runner, "answer", path], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    return done.returncode, json.loads(done.stdout.strip().splitlines()[-1]), done.stderr


def lines(feed: Arrays, library: Path, folder: Path, artifact: Path, **changes: object) -> bytes:
    (folder / "inputs").write_bytes(input_bytes(feed))
    request = Request("run", {"a": str(artifact)}, str(folder / "inputs"), str(folder / "outputs"), tethered=False)
    return request_lines(msgspec_replace(request, **changes), str(library), feed)


def msgspec_replace(request: Request, **changes: object) -> Request:
    import msgspec

    return msgspec.structs.replace(request, **changes)


def test_it_needs_nothing_but_libc_and_is_aligned_for_16_kb_pages(native_runner: Path) -> None:
    needed = subprocess.run(["readelf", "-d", native_runner], capture_output=True, text=True, check=True).stdout
    assert {line.split("[")[1].rstrip("]") for line in needed.splitlines() if "NEEDED" in line} <= {"libc.so.6", "libm.so.6"}
    headers = subprocess.run(["readelf", "-lW", native_runner], capture_output=True, text=True, check=True).stdout
    loads = [line.split()[-1] for line in headers.splitlines() if line.split()[:1] == ["LOAD"]]
    assert loads and all(int(align, 16) >= 2**14 for align in loads)


def test_cmake_builds_it_too(tmp_path: Path) -> None:
    if shutil.which("cmake") is None or shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no cmake or no C compiler for aarch64 here (Debian packages cmake, gcc-aarch64-linux-gnu)")
    sources = Path(native.__file__).parents[1] / "runner" / "native"
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc"]
    subprocess.run(["cmake", "-S", sources, "-B", tmp_path, *target], capture_output=True, check=True, timeout=120)
    subprocess.run(["cmake", "--build", tmp_path], capture_output=True, check=True, timeout=120)
    native.refuse_other_machine(tmp_path / "edgepack-runner", "arm64-v8a")


def test_libraries_with_tensorflow_lites_interface_are_called_in_turn(runner: Path, tmp_path: Path) -> None:
    library = tmp_path / "libtensorflowlite_c.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", FAKES / "tflite_c.c", "-o", library], check=True, capture_output=True)
    (tmp_path / "model.tflite").write_bytes(b"\0\0\0\0TFL3")
    feed = {"x": np.arange(8, dtype=np.float32).reshape(2, 1, 4)}
    code, response, words = ask(runner, lines(feed, library, tmp_path, tmp_path / "model.tflite", threads=3), tmp_path)
    assert code == 0 and response["version"] == "2.99.0" and response["session"] == {"interface": "TfLiteInterpreter", "xnnpack": True}, (
        words
    )
    found = output_arrays(answer_of(json.dumps(response)), (tmp_path / "outputs").read_bytes())
    np.testing.assert_array_equal(found["y"], 2 * feed["x"] + 3)
    assert runner_of(library) == "litert"


@pytest.mark.parametrize(
    ("request_bytes", "said"),
    [
        (b"", "schema 0 is not 1"),
        (b"schema\t1\n", "no action"),
        (b"schema\t2\naction\trun\nruntime\tx\nartifact\ta\tb\n", "schema 2"),
        (b"schema\t1\naction\tdance\nruntime\tx\nartifact\ta\tb\n", "none of run, time, describe"),
        (b"schema\t1\naction\trun\nruntime\tx\nartifact\ta\tb\nthreads\t0\n", "0 threads"),
        (b"schema\t-1\n", "no number"),
        (b"schema\t99999999999999999999\n", "no number"),
        (b"seconds\tnan\n", "no number"),
        (b"unheard of\t1\n", "not known here"),
        (b"action\n", "not known here"),
        (b"artifact\ta\n", "2 fields"),
        (b"input\tx\tcomplex64\t1\n", "complex64"),
        (b"input\tx\tfloat32\t9223372036854775807\t9223372036854775807\n", "larger than any memory"),
        (b"input\tx\tfloat32" + b"\t1" * 9 + b"\n", "12 fields"),
        (b"\t" * 50 + b"\n", "more than"),
        (b"input\tx\tfloat32\t1\n" * 65, "more than 64"),
        (b"artifact\tx\ty\n" * 65, "more than 64"),
        (b"schema\t1\naction\trun\nruntime\t/nowhere.so\nartifact\ta\tb\n", "cannot be loaded"),
    ],
)
def test_what_is_no_request_is_refused_by_name(runner: Path, request_bytes: bytes, said: str, tmp_path: Path) -> None:
    code, response, _ = ask(runner, request_bytes, tmp_path)
    assert code == 1 and response["ok"] is False and said in str(response["error"]), response


def test_inputs_that_are_shorter_than_they_say_are_refused(runner: Path, tmp_path: Path) -> None:
    asked = lines({"x": np.zeros((2, 4), np.float32)}, LITERT, tmp_path, tmp_path / "none")
    (tmp_path / "inputs").write_bytes(b"\0" * 31)
    _, response, _ = ask(runner, asked, tmp_path)
    assert "have 31 bytes, the request says 32" in str(response["error"])


@pytest.mark.parametrize("library", [LITERT, ORT], ids=["litert", "ort"])
def test_an_artifact_that_is_none_is_the_runtimes_own_failure(runner: Path, library: Path, tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(b"no model")
    code, response, _ = ask(runner, lines({"x": np.zeros((1, 4), np.float32)}, library, tmp_path, tmp_path / "none"), tmp_path)
    assert code == 1 and "failed" in str(response["error"]) and response["runtime"] in ("litert", "onnxruntime")


def test_a_library_that_is_no_runtime_is_refused(runner: Path, tmp_path: Path) -> None:
    library = tmp_path / "libnothing.so"
    (tmp_path / "nothing.c").write_text("int nothing(void);\nint nothing(void) { return 0; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", tmp_path / "nothing.c", "-o", library], check=True)
    _, response, _ = ask(runner, lines({"x": np.zeros((1, 4), np.float32)}, library, tmp_path, library), tmp_path)
    assert "no runtime" in str(response["error"])
    with pytest.raises(InputError, match="offers no C interface"):
        runner_of(library)


def test_a_command_line_that_is_none_has_its_usage(runner: Path) -> None:
    done = subprocess.run([runner, "dance"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_a_place_that_cannot_be_held_is_refused(runner: Path) -> None:
    done = subprocess.run([runner, "hold", "/proc/none", "0", "0"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 73 and json.loads(done.stdout)["refused"] == "/proc/none"


def test_a_holder_that_hears_nothing_for_too_long_lets_go(runner: Path, tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([runner, "hold", tmp_path, "0", "0.5"], stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None and process.stdout is not None
        folder = Path(json.loads(process.stdout.readline())["ready"]["folder"])
        for _ in range(4):
            time.sleep(0.3)
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert process.poll() is None and folder.is_dir()
        assert process.wait(5) == 0 and not folder.exists()


def test_names_of_libraries_tell_which_artifacts_they_run() -> None:
    assert runner_of(LITERT) == "litert" and runner_of(ORT) == "ort"


def test_a_runtime_is_taken_out_of_an_aar_for_the_phones_abi(tmp_path: Path) -> None:
    library = bytes(_elf(183))
    with zipfile.ZipFile(tmp_path / "litert.aar", "w") as archive:
        archive.writestr("classes.jar", b"")
        archive.writestr("jni/x86_64/libLiteRt.so", _elf(62))
        archive.writestr("jni/arm64-v8a/libLiteRt.so", library)
    assert runtime_library(tmp_path / "litert.aar", "arm64-v8a", tmp_path).read_bytes() == library
    with pytest.raises(InputError, match="holds no runtime for armeabi-v7a"):
        runtime_library(tmp_path / "litert.aar", "armeabi-v7a", tmp_path)


def test_a_runtime_is_taken_out_of_a_wheel(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "onnxruntime.whl", "w") as archive:
        archive.writestr("onnxruntime/capi/libonnxruntime.so.1.32.0", _elf(183))
    assert runtime_library(tmp_path / "onnxruntime.whl", "arm64-v8a", tmp_path).name == "libonnxruntime.so"
    with pytest.raises(NativeError, match="not made for x86_64"):
        runtime_library(tmp_path / "onnxruntime.whl", "x86_64", tmp_path)


def test_an_archive_without_a_runtime_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.aar", "w") as archive:
        archive.writestr("classes.jar", b"")
    with pytest.raises(InputError, match="holds no runtime for arm64-v8a"):
        runtime_library(tmp_path / "other.aar", "arm64-v8a", tmp_path)


def _elf(machine: int) -> bytes:
    """The beginning of an ELF library: magic, class, then type and machine at byte 16."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + machine.to_bytes(2, "little") + bytes(44)


def test_without_a_runner_or_an_ndk_the_way_to_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEPACK_RUNNER", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_NDK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NativeError, match="ANDROID_NDK_HOME"):
        runner_for("arm64-v8a")
    with pytest.raises(NativeError, match="not supported"):
        runner_for("armeabi-v7a")


def test_with_an_ndk_it_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The NDK here is a folder laid out as one, whose clang is the cross compiler for aarch64 Linux."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("no C compiler for aarch64 here (Debian package gcc-aarch64-linux-gnu)")
    clang = tmp_path / "ndk/toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android26-clang"
    clang.parent.mkdir(parents=True)
    clang.symlink_to(compiler)
    monkeypatch.delenv("EDGEPACK_RUNNER", raising=False)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    built = runner_for("arm64-v8a")
    native.refuse_other_machine(built, "arm64-v8a")
    before = built.stat().st_mtime_ns
    assert runner_for("arm64-v8a") == built and built.stat().st_mtime_ns == before
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    with pytest.raises(NativeError, match="has no aarch64-linux-android26-clang"):
        runner_for("arm64-v8a")


def test_a_runner_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "runner").write_bytes(_elf(62))
    monkeypatch.setenv("EDGEPACK_RUNNER", str(tmp_path / "runner"))
    with pytest.raises(NativeError, match="not made for arm64-v8a"):
        runner_for("arm64-v8a")
    monkeypatch.setenv("EDGEPACK_RUNNER", str(tmp_path / "absent"))
    with pytest.raises(NativeError, match="no file"):
        runner_for("arm64-v8a")


def described(**changes: object) -> Answer:
    array = {"name": "y", "dtype": "float32", "offset": 0, "stride": 8, "shape": [2], **changes}
    count = array.pop("count", 2)
    return answer_of(json.dumps({"count": count, "arrays": [array]}))


def test_outputs_are_stacked_whatever_lies_between_their_samples() -> None:
    content = np.arange(6, dtype=np.float32).tobytes()
    np.testing.assert_array_equal(output_arrays(described(stride=12), content)["y"], [[0, 1], [3, 4]])
    np.testing.assert_array_equal(output_arrays(described(shape=[], stride=4, count=6), content)["y"], range(6))


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 1},
        {"stride": 4},
        {"stride": 100},
        {"shape": [2, 2]},
        {"count": 3},
        {"count": 0},
        {"dtype": "object"},
        {"dtype": "float3"},
    ],
)
def test_outputs_that_are_not_in_the_bytes_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RunnerError):
        output_arrays(described(**changes), bytes(16))


@pytest.mark.parametrize("said", ["", "nonsense", '{"arrays": 1}', '{"arrays": [{"name": "y"}]}', '{"count": -1}', "[" * 100_000])
def test_answers_that_are_none_are_refused(said: str) -> None:
    with pytest.raises(RunnerError):
        answer_of(said)


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "", "a\0b"])
def test_names_that_would_change_the_request_are_refused(name: str) -> None:
    with pytest.raises(RunnerError, match="cannot be told"):
        request_lines(Request("run", {"a": "m"}, "i", "o"), "lib", {name: np.zeros((1, 1), np.float32)})
