"""From the files of a finished plan to a pack."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import edgepack
from edgepack.arrays import load_arrays, save_arrays
from edgepack.backends.artifact import ArtifactDescription, Finding
from edgepack.converter.execute import Results
from edgepack.converter.pipeline import Branch, Build, BuildRequest
from edgepack.converter.step import Output, Step
from edgepack.hub.steps import HubNotes
from edgepack.pack.digest import file_record
from edgepack.pack.files import MANIFEST
from edgepack.pack.manifest import SCHEMA, ArtifactRecord, CalibrationRecord, FileRecord, HubRecord, Latency, Pack, Recipe
from edgepack.student.spec import StudentDescription
from edgepack.verify.steps import RunFacts, Verdict

T = TypeVar("T")
# The libraries whose versions shape an artifact or its figures.
_RECORDED = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "ai-edge-litert", "coremltools", "numpy")
# Why a runtime has no time on this machine.
_NO_TIME = {"mil": "Core ML runs only on Apple systems; the MIL interpreter checks what is computed, not how fast"}


def wanted_of(build: Build) -> list[Output]:
    """Every output that a pack is made of."""
    steps = [build.hub, build.samples, build.reference, *([build.observe] if build.observe else []), *build.quantized.values()]
    shared = [step[file] for step in (build.capture, *steps) for file in step.outputs if file not in _INNER]
    own = [step[file] for branch in build.branches for step in (branch.write, branch.run, branch.judge) for file in step.outputs]
    return [*shared, *(output for output in own if output.file != "evaluation.npz")]


# Outputs that steps hand on and no pack holds.
_INNER = ("captured.onnx", "calibration.npz", "evaluation.npz", "evaluation_outputs.npz", "simulated.npz")


class Assembler:
    """Copies what a pack holds out of a plan's results and writes its manifest."""

    def __init__(self, build: Build, results: Results, pack: Path) -> None:
        self._build, self._results, self._pack = build, results, pack

    def assemble(self, latencies: Mapping[tuple[str, str], Latency]) -> Pack:
        """Fill the pack's folder; ``latencies`` is by (target, scheme). The report is written by the caller, from the manifest."""
        build = self._build
        golden = {
            name: self._copy(step[f"{source}.npz"], f"golden/{name}.npz")
            for name, step, source in (
                ("inputs", build.samples, "golden"),
                ("outputs", build.reference, "golden_outputs"),
                ("reference", build.reference, "golden_reference"),
            )
        }
        quantized = next((step for step in build.quantized.values() if "constraints.json" in step.outputs), None)
        pack = Pack(
            schema=SCHEMA,
            edgepack=edgepack.__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            student=self._read(build.described, StudentDescription),
            hubs=tuple(self._hubs()),
            calibration=self._calibration(),
            ranges=self._copy(build.observe["ranges.json"], "hub/ranges.json") if build.observe else None,
            constraints=self._copy(quantized["constraints.json"], "hub/constraints.json") if quantized else None,
            golden_inputs=golden["inputs"],
            golden_outputs=golden["outputs"],
            golden_reference=golden["reference"],
            artifacts=tuple(self._artifact(branch, latencies) for branch in build.branches),
            versions=versions(),
            targets=build.request.targets,
            recipe=_recipe(build.request),
            example=self._copy(build.capture["example.npz"], "golden/example.npz"),
        )
        (self._pack / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(pack), indent=1))
        return pack

    def _hubs(self) -> list[HubRecord]:
        return [self._hub("fp32", self._build.hub), *(self._hub(scheme, step) for scheme, step in self._build.quantized.items())]

    def _hub(self, scheme: str, step: Step) -> HubRecord:
        facts = self._read(step["notes.json"], HubNotes)
        return HubRecord(scheme, self._copy(step["model.onnx"], f"hub/{scheme}.onnx"), facts.operators, facts.notes)

    def _calibration(self) -> CalibrationRecord | None:
        if "samples.json" not in self._build.samples.outputs:
            return None
        return self._read(self._build.samples["samples.json"], CalibrationRecord)

    def _artifact(self, branch: Branch, latencies: Mapping[tuple[str, str], Latency]) -> ArtifactRecord:
        described, verdict, facts = self.described(branch), self.verdict(branch), self._read(branch.run["run.json"], RunFacts)
        latency = latencies.get((branch.target.name, branch.scheme))
        failures = self.failures(branch)
        return ArtifactRecord(
            target=branch.target.name,
            platform=branch.target.platform,
            scheme=branch.scheme,
            runner=described.runner,
            runtime=facts.runtime,
            file=self._copy(branch.write[described.file], f"{branch.target.name}/{branch.scheme}/{described.file}"),
            inputs=described.inputs,
            outputs=described.outputs,
            parity=verdict.parity,
            accuracy=verdict.accuracy,
            metrics=verdict.metrics,
            latency=latency,
            no_latency="" if latency else _why_no_latency(described, failures),
            minimum_os=described.minimum_os,
            notes=(*described.notes, *verdict.notes, *_session_notes(facts.session)),
            findings=self._findings(branch),
            failures=failures,
            answer=self._answer(branch),
            state=described.state,
            kept=described.kept,
            sizes=described.sizes,
            size_parity=facts.size_parity,
        )

    def _answer(self, branch: Branch) -> FileRecord:
        """What the artifact answered on the first golden sample."""
        path = self._pack / branch.target.name / branch.scheme / "answer.npz"
        golden = load_arrays(self._results.path(branch.run["golden.npz"]))
        save_arrays(path, {name: array[:1] for name, array in golden.items()})
        return file_record(self._pack, path)

    def described(self, branch: Branch) -> ArtifactDescription:
        """What a branch wrote."""
        return self._read(branch.write["artifact.json"], ArtifactDescription)

    def verdict(self, branch: Branch) -> Verdict:
        """What verification found of a branch."""
        return self._read(branch.judge["verdict.json"], Verdict)

    def failures(self, branch: Branch) -> tuple[str, ...]:
        """Every gate a branch failed: what verification found, and what the linter calls an error."""
        name = f"{branch.target.name} {branch.scheme}"
        errors = tuple(f"{name}: {found.where}: {found.message}" for found in self._findings(branch) if found.level == "error")
        return self.verdict(branch).failures + errors

    def _findings(self, branch: Branch) -> tuple[Finding, ...]:
        return self._read(branch.write["findings.json"], tuple[Finding, ...])

    def artifact_path(self, branch: Branch) -> Path:
        """Where a branch's artifact lies."""
        return self._results.path(branch.write[self.described(branch).file])

    def _read(self, output: Output, kind: type[T]) -> T:
        return msgspec.json.decode(self._results.path(output).read_bytes(), type=kind)

    def _copy(self, output: Output, name: str) -> FileRecord:
        source, target, held = self._results.path(output), self._pack / name, self._results.held(output)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            # Without the store's permissions, which forbid writing.
            shutil.copytree(source, target, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, target)
        return FileRecord(name, held.bytes, held.sha256)


def _why_no_latency(described: ArtifactDescription, failures: Sequence[str]) -> str:
    if described.runner in _NO_TIME:
        return _NO_TIME[described.runner]
    return "not timed: it failed verification" if failures else "not asked for"


def _session_notes(session: Mapping[str, Any]) -> tuple[str, ...]:
    """What a loaded session says of itself, as phrases."""
    return tuple(f"{key.replace('_', ' ')}: {value}" for key, value in session.items() if isinstance(value, (int, float, str)))


def _recipe(request: BuildRequest) -> Recipe:
    return Recipe(request.method, request.bias_correction, request.fold_preprocessing, request.image_inputs, request.by_student)


def versions() -> dict[str, str]:
    """Versions of the libraries that shape an artifact, as they are installed here."""
    found = {}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
