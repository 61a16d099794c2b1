"""What a pack claims, and whether it holds: everything that can be is done again from the pack's own files, on this machine.

A pack may come from anyone: no code of it runs. Its files are read by the same steps as in a build, each in a process with limits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgepack.arrays import load_arrays
from edgepack.backends.artifact import ArtifactDescription, Finding
from edgepack.backends.registry import ARTIFACT_FILES
from edgepack.calibration.manifest import CalibrationSet
from edgepack.calibration.readers import Samples
from edgepack.converter.execute import Manner, Results, execute
from edgepack.converter.pipeline import Written, demands_of, has_own_hub, quantize_step, run_step, write_step
from edgepack.converter.plan import Plan
from edgepack.converter.process import Watcher
from edgepack.converter.step import Limits, Output, Step
from edgepack.converter.store import opened
from edgepack.errors import EdgepackError
from edgepack.pack.digest import intact
from edgepack.pack.files import PackError, inside
from edgepack.pack.manifest import ArtifactRecord, CalibrationRecord, OutputParity, Pack
from edgepack.pack.run import infer, refuse_other_files
from edgepack.quantize.scheme import Scheme
from edgepack.targets import Target
from edgepack.verify.metrics import sqnr_db
from edgepack.verify.steps import Verdict

# Two processors' own kernels: int8 networks with ties differ by 1.5 dB of SQNR at most (FACTS, "Whole networks"); sums in float32 by less
# than the 3 dB that a conversion is allowed.
_SAME_CODES_DB, _SAME_FLOATS_DB = 1.5, 3.0
# One sample between two int8 kernels: FACTS puts whole networks with ties at 32 dB; 2 dB for one sample in place of many.
_SAME_ANSWER_DB = 30.0


class Claim(msgspec.Struct, frozen=True):
    """One thing a pack says.

    Attributes:
        subject: "pack", "hub w8a8", "android fp32". what: "digests", "rebuild", "lint", "parity", "accuracy", "inference", ...
        holds: None when it was not looked at. detail: the figures, or why not.
    """

    subject: str
    what: str
    holds: bool | None
    detail: str


@dataclass(frozen=True)
class Wish:
    """How far to look.

    Attributes:
        quick: digests and one inference of each artifact only.
        manifest: the calibration manifest the pack was built with, which holds the data for ranges, biases and accuracy.
    """

    quick: bool = False
    manifest: Path | None = None
    limits: Limits = field(default_factory=Limits)
    jobs: int = 0


def verify(folder: Path, pack: Pack, wish: Wish, watcher: Watcher) -> list[Claim]:
    """Every claim of a pack, in order; after a digest that does not hold nothing of the pack is run.

    Raises:
        EdgepackError: the pack says too little, or the data given are not those it was built with.
    """
    claims = list(_digests(folder, pack))
    if any(claim.holds is False for claim in claims):
        return claims
    if wish.quick:
        return claims + [_inference(folder, pack, artifact, wish.limits) for artifact in pack.artifacts]
    _refuse_silent(pack)
    with tempfile.TemporaryDirectory(prefix="edgepack-") as scratch, opened(None) as store:
        steps = _Steps(folder, pack, wish, Path(scratch))
        results = execute(steps.plan, store, watcher, Manner(wish.jobs, keep_going=True))
        judge = _Judge(pack, steps, results, _other_versions(pack))
        return claims + judge.claims()


def first_broken(claims: Sequence[Claim]) -> Claim | None:
    """The first claim that does not hold."""
    return next((claim for claim in claims if claim.holds is False), None)


def _digests(folder: Path, pack: Pack) -> Iterator[Claim]:
    for record in pack.files:
        try:
            intact(folder, record)
        except PackError as error:
            yield Claim("pack", f"digest of {record.path}", False, error.cause)
            return
    yield Claim("pack", "digests", True, f"{len(pack.files)} files are those recorded")


def _inference(folder: Path, pack: Pack, artifact: ArtifactRecord, limits: Limits) -> Claim:
    """One golden sample through an artifact, against what it answered when it was verified."""
    subject = _subject(artifact)
    if artifact.answer is None:
        return Claim(subject, "inference", None, "the pack records no answer")
    sample = Samples.open(inside(folder, pack.golden_inputs.path)).take([0]).arrays
    expected = load_arrays(inside(folder, artifact.answer.path))
    try:
        outputs, response = infer(folder, artifact, sample, limits)
    except EdgepackError as error:
        return Claim(subject, "inference", False, error.cause)
    for name, wanted in expected.items():
        if name not in outputs or outputs[name].shape != wanted.shape:
            return Claim(subject, "inference", False, f"output '{name}' is missing or of another shape")
        reached = sqnr_db(wanted, outputs[name])
        if reached is not None and not reached >= _SAME_ANSWER_DB:
            return Claim(subject, "inference", False, f"output '{name}' is {reached:.1f} dB from what it was, {_SAME_ANSWER_DB:g} at least")
    return Claim(subject, "inference", True, f"answers as it did, in {response.runtime} {response.version}")


def _refuse_silent(pack: Pack) -> None:
    named = {target.name for target in pack.targets}
    if pack.example is None or any(artifact.target not in named for artifact in pack.artifacts):
        raise PackError("the pack does not say how it was built", "build it again with this edgepack, or verify with --quick")


def _other_versions(pack: Pack) -> str:
    """The libraries whose versions here are not those the pack was built with, as a phrase."""
    from edgepack.pack.assemble import versions

    here = versions()
    differ = [f"{name} {was} (here {here.get(name, 'none')})" for name, was in pack.versions.items() if here.get(name) != was]
    return ", ".join(differ)


def _subject(artifact: ArtifactRecord) -> str:
    return f"{artifact.target} {artifact.scheme}"


class _Steps:
    """The steps that do again what a pack says was done, by role. Sources are the pack's own files."""

    def __init__(self, folder: Path, pack: Pack, wish: Wish, scratch: Path) -> None:
        self._folder, self.pack, self.wish = folder, pack, wish
        self._targets = {target.name: target for target in pack.targets}
        self.hubs = {hub.scheme: inside(folder, hub.file.path) for hub in pack.hubs}
        if "fp32" not in self.hubs:
            raise PackError("the pack holds no fp32 hub", "build the pack again")
        for hub in self.hubs.values():
            refuse_other_files(hub, "ort")
        self.student = scratch / "student.json"
        self.student.write_bytes(msgspec.json.encode(pack.student))
        self.golden = inside(folder, pack.golden_inputs.path)
        self.samples = self._samples()
        self.calibrate = self._calibrate()
        self.quantize = {scheme: self._quantize(scheme) for scheme in self.hubs if has_own_hub(scheme)}
        self.same = {scheme: self._same(scheme, step["model.onnx"]) for scheme, step in self.quantize.items()}
        self.halves = {target.computes_in_half: self._half(target) for target in pack.targets if self._carries(target, "fp16")}
        self.simulated = {scheme: self._simulate(f"simulate {scheme}", path) for scheme, path in self.hubs.items() if has_own_hub(scheme)}
        self.evaluated = self._evaluated()
        self.write = {_subject(each): self._write(each) for each in pack.artifacts}
        self.run = {_subject(each): self._run(each) for each in pack.artifacts}
        self.judge = {_subject(each): self._judge(each) for each in pack.artifacts}

    @property
    def plan(self) -> Plan:
        """All of them."""
        single = [step for step in (self.samples, self.calibrate, self.evaluated) if step is not None]
        by_scheme = (self.quantize, self.same, self.simulated)
        by_artifact = (self.write, self.run, self.judge)
        groups = [*self.halves.values(), *(step for group in (*by_scheme, *by_artifact) for step in group.values())]
        return Plan.of([*single, *groups])

    def _carries(self, target: Target, scheme: str) -> bool:
        return any((each.target, each.scheme) == (target.name, scheme) for each in self.pack.artifacts)

    def _samples(self) -> Step | None:
        """Reading the data, when they were given."""
        manifest = self.wish.manifest
        if manifest is None or self.pack.calibration is None:
            return None
        held = CalibrationSet.load(manifest).evaluation is not None
        outputs = ("calibration.npz", "golden.npz", "samples.json", *(("evaluation.npz",) if held else ()))
        inputs: dict[str, Output | Path] = {"student": self.student, "manifest": manifest}
        parameters = {"as_pixels": self.pack.recipe.fold_preprocessing}
        return Step("samples", "edgepack.calibration.steps:collect", inputs, parameters, outputs, self.wish.limits)

    def _calibrate(self) -> Step | None:
        if self.samples is None or self.pack.ranges is None:
            return None
        inputs: dict[str, Output | Path] = {"hub": self.hubs["fp32"], "calibration": self.samples["calibration.npz"]}
        inputs |= {"pixels": self.student} if self.pack.recipe.fold_preprocessing else {}
        return Step("calibrate", "edgepack.calibration.steps:observe", inputs, {}, ("ranges.json",), self.wish.limits)

    def _quantize(self, scheme: str) -> Step:
        pack, recipe = self.pack, self.pack.recipe
        asked = [target for target in pack.targets if self._carries(target, scheme)]
        sources: dict[str, Output | Path] = {"hub": self.hubs["fp32"], "golden": self.golden}
        if Scheme.parse(scheme).is_static and pack.ranges is not None:
            sources["ranges"] = inside(self._folder, pack.ranges.path)
            sources |= {"calibration": self.samples["calibration.npz"]} if self.samples is not None else {}
        corrects = recipe.bias_correction and "calibration" in sources
        if not Scheme.parse(scheme).is_static:
            corrects = recipe.bias_correction and pack.calibration is not None
            sources |= {"calibration": self.samples["calibration.npz"]} if corrects and self.samples is not None else {}
        return quantize_step(scheme, demands_of(scheme, asked, recipe.ranges), corrects, sources, self.wish.limits)

    def _same(self, scheme: str, built: Output) -> Step:
        """Comparing the quantized hub made again with the pack's."""
        corrected = Scheme.parse(scheme).is_static or self.pack.calibration is not None
        lacks = self.pack.recipe.bias_correction and corrected and self.samples is None
        inputs: dict[str, Output | Path] = {"built": built, "held": self.hubs[scheme]}
        parameters = {"biases_differ": lacks}
        return Step(f"compare {scheme}", "edgepack.quantize.steps:same_hub", inputs, parameters, ("same.json",), self.wish.limits)

    def _half(self, target: Target) -> Step:
        inputs: dict[str, Output | Path] = {"hub": self.hubs["fp32"], "golden": self.golden}
        name = "simulate fp16 " + ("arithmetic" if target.computes_in_half else "weights")
        parameters = {"computes": target.computes_in_half}
        return Step(name, "edgepack.quantize.steps:half", inputs, parameters, ("simulated.npz",), self.wish.limits)

    def _simulate(self, name: str, hub: Path, samples: Output | Path | None = None) -> Step:
        inputs: dict[str, Output | Path] = {"model": hub, "golden": samples or self.golden}
        return Step(name, "edgepack.quantize.steps:simulate", inputs, {}, ("simulated.npz",), self.wish.limits)

    def _evaluated(self) -> Step | None:
        """What the student's hub answers on the evaluation set."""
        if self.samples is None or "evaluation.npz" not in self.samples.outputs:
            return None
        return self._simulate("evaluate fp32 hub", self.hubs["fp32"], self.samples["evaluation.npz"])

    def _write(self, artifact: ArtifactRecord) -> Step:
        assert self.pack.example is not None
        sources: dict[str, Output | Path] = {
            "model": self.hubs.get(artifact.scheme, self.hubs["fp32"]),
            "student": self.student,
            "example": inside(self._folder, self.pack.example.path),
        }
        goal, images = self._targets[artifact.target], self.pack.recipe.image_inputs
        return write_step(_subject(artifact), goal, artifact.scheme, images, sources, self.wish.limits)

    def _run(self, artifact: ArtifactRecord) -> Step:
        """The artifact of the pack itself, not the one made again."""
        samples: dict[str, Output | Path] = {"golden": self.golden}
        samples |= {"evaluation": self.samples["evaluation.npz"]} if self.samples is not None and self.evaluated is not None else {}
        described = self.student.with_name(f"{artifact.target}.{artifact.scheme}.json")
        name, state, sizes = Path(artifact.file.path).name, artifact.state, artifact.sizes
        facts = ArtifactDescription(name, artifact.inputs, artifact.outputs, artifact.runner, state=state, sizes=sizes)
        described.write_bytes(msgspec.json.encode(facts))
        file = inside(self._folder, artifact.file.path)
        refuse_other_files(file, artifact.runner)
        written = Written(described, file, self.hubs.get(artifact.scheme, self.hubs["fp32"]))
        return run_step(_subject(artifact), artifact.scheme, written, samples, self.wish.limits)

    def _judge(self, artifact: ArtifactRecord) -> Step:
        pack, subject = self.pack, _subject(artifact)
        run, goal = self.run[subject], self._targets[artifact.target]
        inputs: dict[str, Output | Path] = {
            "run": run["run.json"],
            "golden": run["golden.npz"],
            "golden_outputs": inside(self._folder, pack.golden_outputs.path),
            "golden_reference": inside(self._folder, pack.golden_reference.path),
        }
        simulated = self.halves.get(goal.computes_in_half) if artifact.scheme == "fp16" else self.simulated.get(artifact.scheme)
        inputs |= {"simulated": simulated["simulated.npz"]} if simulated is not None else {}
        if Scheme.parse(artifact.scheme).is_static and pack.constraints is not None:
            inputs["constraints"] = inside(self._folder, pack.constraints.path)
        if self.samples is not None and self.evaluated is not None:
            inputs["evaluation"] = self.samples["evaluation.npz"]
            inputs["evaluation_outputs"] = run["evaluation.npz"]
            inputs["student_evaluation"] = self.evaluated["simulated.npz"]
        asked = {"scheme": artifact.scheme, "metrics": [], "by_student": pack.recipe.by_student}
        parameters = {"target": msgspec.to_builtins(goal), **asked}
        return Step(f"{subject}: judge", "edgepack.verify.steps:judge", inputs, parameters, ("verdict.json",), self.wish.limits)


class _Judge:
    """Compares what was done again with what the pack says."""

    def __init__(self, pack: Pack, steps: _Steps, results: Results, other_versions: str) -> None:
        self._pack, self._steps, self._results, self._other = pack, steps, results, other_versions

    def claims(self) -> list[Claim]:
        """Of the data, the hubs, and every artifact."""
        return [*self._data(), *self._hubs(), *(claim for artifact in self._pack.artifacts for claim in self._artifact(artifact))]

    def _failure(self, *steps: Step | None) -> str:
        """Why the first of the steps that failed did; "" when none did."""
        failures = self._results.failures
        return next((failures[step.name].cause for step in steps if step is not None and step.name in failures), "")

    def _data(self) -> Iterator[Claim]:
        samples, recorded = self._steps.samples, self._pack.calibration
        if samples is None or recorded is None:
            return
        failed = self._failure(samples)
        if failed:
            yield Claim("pack", "data", False, failed)
            return
        found = msgspec.json.decode(self._results.path(samples["samples.json"]).read_bytes(), type=CalibrationRecord)
        same = (found.calibration_digest, found.evaluation_digest) == (recorded.calibration_digest, recorded.evaluation_digest)
        words = f"{found.calibration_samples} calibration and {found.evaluation_samples} evaluation samples"
        yield Claim("pack", "data", same, words if same else f"{words} are not those it was built on")
        if self._steps.calibrate is not None and self._pack.ranges is not None:
            yield self._ranges(self._steps.calibrate, self._pack.ranges.sha256)

    def _ranges(self, step: Step, recorded: str) -> Claim:
        failed = self._failure(step)
        if failed:
            return Claim("pack", "ranges", False, failed)
        if self._results.held(step["ranges.json"]).sha256 == recorded:
            return Claim("pack", "ranges", True, "the calibration set gives them again")
        return self._differs("pack", "ranges", "the calibration set gives others", of_processor=True)

    def _differs(self, subject: str, what: str, words: str, of_processor: bool = False) -> Claim:
        """Bytes that differ prove nothing where other versions made them, or a processor that rounds in other places may have."""
        if self._other:
            return Claim(subject, what, None, f"{words}, but it was built with {self._other}")
        if of_processor:
            return Claim(subject, what, None, f"{words}; another kind of processor does that too")
        return Claim(subject, what, False, words)

    def _hubs(self) -> Iterator[Claim]:
        for scheme, same in self._steps.same.items():
            failed, subject = self._failure(self._steps.quantize[scheme], same), f"hub {scheme}"
            if failed:
                yield Claim(subject, "rebuild", False, failed)
                continue
            differs = msgspec.json.decode(self._results.path(same["same.json"]).read_bytes(), type=str)
            but = ", but for the corrected biases, which need -c" if same.parameters["biases_differ"] else ""
            if differs:
                yield self._differs(subject, "rebuild", differs)
            else:
                yield Claim(subject, "rebuild", True, f"hub and ranges give it again{but}")

    def _artifact(self, artifact: ArtifactRecord) -> Iterator[Claim]:
        subject = _subject(artifact)
        yield from self._rebuilt(artifact, self._steps.write[subject])
        failed = self._failure(self._steps.run[subject], self._steps.judge[subject], *self._behind(artifact))
        if failed:
            yield Claim(subject, "parity", False, failed)
            return
        verdict = self._read_verdict(self._steps.judge[subject])
        yield _parity(artifact, verdict)
        yield _accuracy(artifact, verdict, self._steps)
        yield from (Claim(subject, f"metric {held.name}", None, "no code of a pack is run") for held in artifact.metrics)
        now = bool(verdict.failures)
        said = any(failure not in _lint_failures(artifact) for failure in artifact.failures)
        yield Claim(subject, "gate", now == said, verdict.failures[0] if now else "within its budgets")

    def _behind(self, artifact: ArtifactRecord) -> list[Step | None]:
        half = [step for step in self._steps.halves.values() if artifact.scheme == "fp16"]
        return [*half, self._steps.simulated.get(artifact.scheme), self._steps.evaluated, self._steps.samples]

    def _read_verdict(self, step: Step) -> Verdict:
        return msgspec.json.decode(self._results.path(step["verdict.json"]).read_bytes(), type=Verdict)

    def _rebuilt(self, artifact: ArtifactRecord, write: Step) -> Iterator[Claim]:
        subject, failed = _subject(artifact), self._failure(write)
        if failed:
            yield Claim(subject, "rebuild", False, failed)
            return
        goal = next(target for target in self._pack.targets if target.name == artifact.target)
        if self._results.held(write[ARTIFACT_FILES[goal.backend]]).sha256 == artifact.file.sha256:
            yield Claim(subject, "rebuild", True, "its hub gives the same bytes")
        else:
            yield self._differs(subject, "rebuild", "its hub gives other bytes")
        found = msgspec.json.decode(self._results.path(write["findings.json"]).read_bytes(), type=tuple[Finding, ...])
        yield Claim(subject, "lint", found == artifact.findings, f"{len(found)} findings, {len(artifact.findings)} recorded")


def _lint_failures(artifact: ArtifactRecord) -> set[str]:
    return {f"{_subject(artifact)}: {found.where}: {found.message}" for found in artifact.findings if found.level == "error"}


def _parity(artifact: ArtifactRecord, verdict: Verdict) -> Claim:
    subject = _subject(artifact)
    tolerance = _SAME_CODES_DB if Scheme.parse(artifact.scheme).weight_bits < 16 else _SAME_FLOATS_DB
    now = {output.name: output for output in verdict.parity.outputs}
    for held in artifact.parity.outputs:
        if held.name not in now or not _is_reached(held, now[held.name], tolerance):
            return Claim(subject, "parity", False, f"output '{held.name}' is {_db(now.get(held.name))}, {_db(held)} recorded")
    worst = min(now.values(), key=lambda output: float("inf") if output.sqnr_db is None else output.sqnr_db)
    return Claim(subject, "parity", True, f"{_db(worst)} ({verdict.parity.truth})")


def _is_reached(held: OutputParity, now: OutputParity, tolerance: float) -> bool:
    """Not further from the student than recorded, but for another processor's rounding. An exact output must stay exact to 100 dB."""
    recorded = 100.0 + tolerance if held.sqnr_db is None else held.sqnr_db
    return now.non_finite <= held.non_finite and (now.sqnr_db is None or now.sqnr_db >= recorded - tolerance)


def _db(output: OutputParity | None) -> str:
    if output is None:
        return "missing"
    return "exact" if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB"


def _accuracy(artifact: ArtifactRecord, verdict: Verdict, steps: _Steps) -> Claim:
    subject, held, now = _subject(artifact), artifact.accuracy, verdict.accuracy
    if held is None:
        return Claim(subject, "accuracy", None, "none is recorded")
    if steps.samples is None:
        return Claim(subject, "accuracy", None, "needs the evaluation set: give its manifest with -c")
    if now is None:
        return Claim(subject, "accuracy", False, "nothing could be measured")
    goal = next(target for target in steps.pack.targets if target.name == artifact.target)
    # What the target calls a difference is one; less may come from a tie on another processor.
    same = abs(now.value.value - held.value.value) <= goal.budgets.drop_points(held.metric) / 100
    return Claim(subject, "accuracy", same, f"{100 * now.value.value:.1f} % {held.metric}, {100 * held.value.value:.1f} % recorded")
