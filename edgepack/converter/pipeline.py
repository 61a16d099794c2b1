"""The plan of one build: which steps a student, targets and schemes need, and how their files flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgepack.backends.registry import ARTIFACT_FILES
from edgepack.calibration.files import data_of
from edgepack.calibration.manifest import CalibrationSet
from edgepack.converter.plan import Plan
from edgepack.converter.step import Limits, Output, Step
from edgepack.quantize.scheme import Scheme
from edgepack.student.files import files_of, is_python
from edgepack.targets import Target

# Bits of a weight.
_INT8 = 8


@dataclass(frozen=True)
class BuildRequest:
    """What a user asked for.

    Attributes:
        student: as named ("student.py:student", "model.onnx").
        targets: where it goes; schemes: for each target the schemes to build, by target name.
        manifest: the calibration manifest, None for a build of real-valued schemes only.
        method: "minmax" or "mse", how activation ranges become encodings.
        bias_correction: whether schemes with int8 weights correct their biases where there is a calibration set.
        metrics: "file.py:function" of the user's own metrics.
        has_evaluation: whether the manifest names an evaluation set; by_student: whether the student's classes stand in for its labels.
        own_codes: whether the student is known to carry Q/DQ of its own, which static schemes keep without any calibration.
        fold_preprocessing: whether the artifacts take pixels, the student's preprocessing being part of them; image_inputs: whether
            they take them as an image where the format has one.
        limits: of every step.
    """

    student: str
    targets: tuple[Target, ...]
    schemes: dict[str, tuple[str, ...]]
    manifest: Path | None = None
    method: str = "minmax"
    bias_correction: bool = True
    metrics: tuple[str, ...] = ()
    has_evaluation: bool = False
    by_student: bool = False
    own_codes: bool = False
    fold_preprocessing: bool = False
    image_inputs: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def has_narrow_weights(self) -> bool:
        """Whether int8 weights get fp16 scales."""
        asked = {scheme for target in self.targets if target.computes_in_half for scheme in self.schemes[target.name]}
        return any(Scheme.parse(scheme).weight_bits == _INT8 for scheme in asked)


@dataclass(frozen=True)
class Branch:
    """The steps of one artifact."""

    target: Target
    scheme: str
    write: Step
    run: Step
    judge: Step


@dataclass(frozen=True)
class Build:
    """The steps of a build, by role; ``plan`` is all of them, checked.

    Attributes:
        student: of Python, the step that says what it is, so that what follows runs only when it has changed; None for a file.
        described: the student that the artifacts are of, whose preprocessing may be part of them.
        canonical: the student's hub; hub: the one that artifacts are written from, the same or with preprocessing in it.
        quantized: by scheme, the steps that write a quantized hub.
        halves: what fp16 leaves of the student, by whether the target computes in it (else its weights alone are halves).
    """

    request: BuildRequest
    student: Step | None
    capture: Step
    described: Output
    canonical: Step
    hub: Step
    samples: Step
    reference: Step
    observe: Step | None
    quantized: dict[str, Step]
    halves: dict[bool, Step]
    branches: tuple[Branch, ...]

    @property
    def plan(self) -> Plan:
        """Every step, checked and in order."""
        hubs = [self.canonical, *([self.hub] if self.hub is not self.canonical else [])]
        student = [self.student] if self.student is not None else []
        shared = [*student, self.capture, *hubs, self.samples, self.reference, *([self.observe] if self.observe else [])]
        shared += [*self.quantized.values(), *self.halves.values()]
        own = [step for branch in self.branches for step in (branch.write, branch.run, branch.judge)]
        return Plan.of([*shared, *own])


@dataclass(frozen=True)
class Inspection:
    """The steps that say what would convert, by role; ``student`` as in ``Build``."""

    student: Step | None
    capture: Step
    hub: Step
    look: Step
    sizes: Step

    @property
    def plan(self) -> Plan:
        """Every step, checked and in order."""
        return Plan.of([*([self.student] if self.student is not None else []), self.capture, self.hub, self.look, self.sizes])


def inspection(student: str, backends: Sequence[str], schemes: Sequence[str], limits: Limits, manifest: Path | None = None) -> Inspection:
    """The steps that say what would convert: capture, canonical form, obstacles of every backend, sizes in every scheme."""
    identity = _identity(student, limits)
    capture = _capture(student, identity, manifest, limits)
    hub = _hub(capture, limits)
    inputs = {"hub": hub["model.onnx"], "example": capture["example.npz"]}
    look = Step("inspect", "edgepack.backends.steps:obstacles", inputs, {"backends": list(backends)}, ("obstacles.json",), limits)
    sizes = Step("sizes", "edgepack.quantize.steps:sizes", {"hub": hub["model.onnx"]}, {"schemes": list(schemes)}, ("sizes.json",), limits)
    return Inspection(identity, capture, hub, look, sizes)


def pipeline(request: BuildRequest) -> Build:
    """The steps of a build."""
    limits = request.limits
    identity = _identity(request.student, limits)
    capture = _capture(request.student, identity, request.manifest, limits, request.fold_preprocessing)
    canonical = _hub(capture, limits)
    hub = _folded(request, canonical, capture) if request.fold_preprocessing else canonical
    described = capture["pixels.json" if request.fold_preprocessing else "student.json"]
    samples = _samples(request, capture)
    reference = _reference(request, samples, capture, identity)
    asked = sorted({scheme for chosen in request.schemes.values() for scheme in chosen})
    static = any(Scheme.parse(scheme).is_static for scheme in asked)
    observe = _observe(request, hub, samples, described) if static and request.manifest is not None and not request.own_codes else None
    quantized = {scheme: _quantize(scheme, request, hub, observe, samples) for scheme in asked if has_own_hub(scheme)}
    halves = {target.computes_in_half: _half(target.computes_in_half, request, hub, samples) for target in _targets_of("fp16", request)}
    sources = _Sources(described, capture["example.npz"], samples, reference)
    branches = tuple(
        _branch(request, target, _Model(scheme, quantized.get(scheme, hub), halves.get(target.computes_in_half)), sources)
        for target in request.targets
        for scheme in request.schemes[target.name]
    )
    return Build(request, identity, capture, described, canonical, hub, samples, reference, observe, quantized, halves, branches)


@dataclass(frozen=True)
class _Sources:
    """What every artifact is written and judged from beside its model."""

    described: Output
    example: Output
    samples: Step
    reference: Step


@dataclass(frozen=True)
class _Model:
    """What one artifact is written from: the hub, or the quantized hub, of a scheme; ``half`` simulates fp16 on its target."""

    scheme: str
    hub: Step
    half: Step | None

    @property
    def simulated(self) -> Output | None:
        """What the scheme's rounding alone leaves of the student, None for fp32."""
        step = self.half if self.scheme == "fp16" else self.hub
        return step["simulated.npz"] if step is not None and "simulated.npz" in step.outputs else None

    @property
    def constraints(self) -> Output | None:
        """The encodings of a static scheme, which say whether they are the student's own."""
        return self.hub["constraints.json"] if "constraints.json" in self.hub.outputs else None


def _targets_of(scheme: str, request: BuildRequest) -> list[Target]:
    return [target for target in request.targets if scheme in request.schemes[target.name]]


# Where the student lies is no part of what it is.
_PLACE = frozenset({"student"})


def _identity(student: str, limits: Limits) -> Step | None:
    """The step that makes a student of Python and says what it is. It always runs: nothing else can tell."""
    if not is_python(student):
        return None
    return Step("student", "edgepack.student.steps:identify", {}, {"student": student}, ("identity.json",), limits, _PLACE, cached=False)


def _of_student(student: str, identity: Step | None) -> tuple[dict[str, Output | Path], dict[str, Path]]:
    """(inputs, files it reads besides) of a step that loads the student."""
    if identity is not None:
        return {"identity": identity["identity.json"]}, {}
    return {}, {f"data {name}": path for name, path in files_of(student).items()}


def _capture(student: str, identity: Step | None, manifest: Path | None, limits: Limits, fold_preprocessing: bool = False) -> Step:
    inputs, reads = _of_student(student, identity)
    given = CalibrationSet.load(manifest) if manifest is not None else None
    parameters = {
        "student": student,
        "fold_preprocessing": fold_preprocessing,
        "preprocessing": msgspec.to_builtins(given.preprocessing) if given is not None else None,
        "labels": list(given.student_labels) if given is not None else [],
    }
    outputs = ("captured.onnx", "student.json", "example.npz", *(("pixels.json",) if fold_preprocessing else ()))
    return Step("capture", "edgepack.student.steps:capture", inputs, parameters, outputs, limits, _PLACE, reads)


def _hub(capture: Step, limits: Limits) -> Step:
    inputs = {"captured": capture["captured.onnx"], "example": capture["example.npz"]}
    return Step("hub", "edgepack.hub.steps:canonicalize", inputs, {}, ("model.onnx", "notes.json"), limits)


def _folded(request: BuildRequest, hub: Step, capture: Step) -> Step:
    inputs = {"hub": hub["model.onnx"], "notes": hub["notes.json"], "student": capture["student.json"]}
    parameters = {"absorb": not request.has_narrow_weights}
    return Step("fold preprocessing", "edgepack.hub.steps:fold", inputs, parameters, ("model.onnx", "notes.json"), request.limits)


def _samples(request: BuildRequest, capture: Step) -> Step:
    student = capture["student.json"]
    parameters: dict[str, Any] = {"as_pixels": request.fold_preprocessing}
    if request.manifest is None:
        inputs = {"student": student, "example": capture["example.npz"], "captured": capture["captured.onnx"]}
        return Step("samples", "edgepack.calibration.steps:draw", inputs, parameters, ("golden.npz",), request.limits)
    outputs = ("calibration.npz", "golden.npz", "samples.json", *(("evaluation.npz",) if request.has_evaluation else ()))
    sources: dict[str, Output | Path] = {"student": student, "manifest": request.manifest}
    data = data_of(request.manifest)
    reads = {f"data {name}": path for name, path in (data or {}).items()}
    parameters["files"] = sorted(data) if data is not None else None
    function, limits = "edgepack.calibration.steps:collect", request.limits
    return Step("samples", function, sources, parameters, outputs, limits, reads=reads, cached=data is not None)


def _reference(request: BuildRequest, samples: Step, capture: Step, identity: Step | None) -> Step:
    inputs, reads = _of_student(request.student, identity)
    inputs |= {"golden": samples["golden.npz"], **({"evaluation": samples["evaluation.npz"]} if request.has_evaluation else {})}
    inputs |= {"folded": capture["student.json"]} if request.fold_preprocessing else {}
    outputs = ("golden_outputs.npz", "golden_reference.npz", *(("evaluation_outputs.npz",) if request.has_evaluation else ()))
    function, parameters = "edgepack.student.steps:reference", {"student": request.student}
    return Step("reference", function, inputs, parameters, outputs, request.limits, _PLACE, reads)


def _observe(request: BuildRequest, hub: Step, samples: Step, described: Output) -> Step:
    inputs = {"hub": hub["model.onnx"], "calibration": samples["calibration.npz"]}
    inputs |= {"pixels": described} if request.fold_preprocessing else {}
    return Step("calibrate", "edgepack.calibration.steps:observe", inputs, {}, ("ranges.json",), request.limits)


def has_own_hub(scheme: str) -> bool:
    """Whether a scheme is written into the hub; artifacts of the others are written from the hub itself."""
    parsed = Scheme.parse(scheme)
    return parsed.is_static or parsed.weight_bits == _INT8


def _quantize(scheme: str, request: BuildRequest, hub: Step, observe: Step | None, samples: Step) -> Step:
    """The step that writes a scheme into the hub."""
    sources: dict[str, Output | Path] = {"hub": hub["model.onnx"], "golden": samples["golden.npz"]}
    if Scheme.parse(scheme).is_static and observe is not None:
        sources |= {"ranges": observe["ranges.json"], "calibration": samples["calibration.npz"]}
    corrects = request.bias_correction
    if not Scheme.parse(scheme).is_static:
        corrects = corrects and request.manifest is not None
        sources |= {"calibration": samples["calibration.npz"]} if corrects else {}
    demands = demands_of(scheme, _targets_of(scheme, request), request.method)
    return quantize_step(scheme, demands, corrects, sources, request.limits)


def demands_of(scheme: str, asked: Sequence[Target], method: str) -> dict[str, Any]:
    """Fields of ``quantize.constraints.Demands`` for the targets that carry a scheme."""
    # Only those that demand something are named: a scheme taken from another target must not change what the rest is made of.
    narrow = [target.name for target in asked if target.computes_in_half]
    return {"scale_dtype": "float16" if narrow else "float32", "method": method, "targets": narrow}


def quantize_step(
    scheme: str, demands: dict[str, Any], bias_correction: bool, sources: Mapping[str, Output | Path], limits: Limits
) -> Step:
    """The step that writes a scheme into a hub from ``sources``: hub, golden, calibration to correct biases, ranges of static ones."""
    parsed, name = Scheme.parse(scheme), f"quantize {scheme}"
    if parsed.is_static:
        parameters = {"demands": demands, "bias_correction": bias_correction}
        outputs = ("model.onnx", "constraints.json", "notes.json", "simulated.npz")
        return Step(name, "edgepack.quantize.steps:static", sources, parameters, outputs, limits)
    parameters = {"demands": demands, "dynamic": parsed.activations == "dynamic", "bias_correction": bias_correction}
    return Step(name, "edgepack.quantize.steps:weights", sources, parameters, ("model.onnx", "notes.json", "simulated.npz"), limits)


def _half(computes: bool, request: BuildRequest, hub: Step, samples: Step) -> Step:
    inputs = {"hub": hub["model.onnx"], "golden": samples["golden.npz"]}
    name = "simulate fp16 " + ("arithmetic" if computes else "weights")
    return Step(name, "edgepack.quantize.steps:half", inputs, {"computes": computes}, ("simulated.npz",), request.limits)


def _branch(request: BuildRequest, target: Target, model: _Model, given: _Sources) -> Branch:
    scheme, samples, reference = model.scheme, given.samples, given.reference
    goal = msgspec.to_builtins(target.judged(scheme))
    name, limits = f"{target.name} {scheme}", request.limits
    sources = {"model": model.hub["model.onnx"], "student": given.described, "example": given.example}
    write = write_step(name, target, scheme, request.image_inputs, sources, limits)
    held: dict[str, Output | Path] = {"golden": samples["golden.npz"]}
    held |= {"evaluation": samples["evaluation.npz"]} if request.has_evaluation else {}
    run = run_step(name, scheme, Written(write["artifact.json"], write[ARTIFACT_FILES[target.backend]], sources["model"]), held, limits)
    compared: dict[str, Output | Path] = {
        "run": run["run.json"],
        "golden": run["golden.npz"],
        "golden_outputs": reference["golden_outputs.npz"],
        "golden_reference": reference["golden_reference.npz"],
    }
    if model.simulated is not None:
        compared["simulated"] = model.simulated
    if model.constraints is not None:
        compared["constraints"] = model.constraints
    if request.has_evaluation:
        compared["evaluation"] = samples["evaluation.npz"]
        compared["evaluation_outputs"] = run["evaluation.npz"]
        compared["student_evaluation"] = reference["evaluation_outputs.npz"]
    judged = {"target": goal, "scheme": scheme, "metrics": list(request.metrics), "by_student": request.by_student}
    # What a metric of the user's depends on only running it would tell.
    judge = Step(f"{name}: judge", "edgepack.verify.steps:judge", compared, judged, ("verdict.json",), limits, cached=not request.metrics)
    return Branch(target, scheme, write, run, judge)


def write_step(name: str, target: Target, scheme: str, image_inputs: bool, sources: Mapping[str, Output | Path], limits: Limits) -> Step:
    """The step that writes the artifact of a target in a scheme from ``sources``: model, student, example."""
    parameters = {"format": target.backend, "minimum_os": target.minimum_os, "scheme": scheme, "image_inputs": image_inputs}
    parameters |= {"runtime": target.constraints.runtime} if target.constraints.runtime else {}
    parameters |= {"keeps_state": True} if target.constraints.state == "kept" else {}
    outputs = (ARTIFACT_FILES[target.backend], "artifact.json", "findings.json")
    return Step(f"{name}: write", "edgepack.backends.steps:write", sources, parameters, outputs, limits)


@dataclass(frozen=True)
class Written:
    """An artifact to be run: its description, its file, and the hub it was written from."""

    described: Output | Path
    file: Output | Path
    model: Output | Path


def run_step(name: str, scheme: str, artifact: Written, samples: Mapping[str, Output | Path], limits: Limits) -> Step:
    """The step that runs an artifact on ``samples``: golden, and evaluation where there is one."""
    inputs = {"artifact": artifact.described, "file": artifact.file, "model": artifact.model, **samples}
    parameters: dict[str, Any] = {"seconds": limits.seconds, "memory": limits.bytes, "scheme": scheme}
    outputs = ("run.json", *(f"{kind}.npz" for kind in samples))
    # The step only waits for its runner, which has these limits itself: it gets a little longer to report a runner that hung.
    waiting = Limits(limits.seconds + 30, limits.bytes)
    limited = frozenset({"seconds", "memory"})
    return Step(f"{name}: run", "edgepack.verify.steps:run", inputs, parameters, outputs, waiting, limited)
