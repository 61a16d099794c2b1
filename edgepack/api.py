"""The public functions: what the command line does, as calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgepack.calibration.manifest import CalibrationSet, find_manifest
from edgepack.converter.build import Keeping, Tell, Timing, build_name, build_pack
from edgepack.converter.execute import Manner
from edgepack.converter.forecast import Forecast, forecast
from edgepack.converter.pipeline import BuildRequest, pipeline
from edgepack.converter.process import Watcher
from edgepack.converter.step import Limits, Step
from edgepack.converter.store import default_place, opened
from edgepack.errors import InputError
from edgepack.latency.gate import Checks, checks
from edgepack.latency.protocol import profile
from edgepack.pack.files import load_pack as load_pack
from edgepack.pack.manifest import Pack
from edgepack.pack.measurements import held as measurements_of
from edgepack.pack.run import chosen
from edgepack.quantize.scheme import Scheme
from edgepack.student.load import is_known_to_hold_codes
from edgepack.targets import Target, load_target
from edgepack.verify.steps import refuse_metrics_without_data

# What is built when nothing was asked for; the others cost a build, a run and a timing each, and answer to a wish.
_DEFAULT_SCHEMES = ("fp32", "w8a8")
DEFAULT_TARGETS = ("raspberry-pi-5", "android", "ios")


class RequestError(InputError):
    """Options that do not fit together."""


class Silent:
    """A watcher that tells nobody."""

    def started(self, step: Step, index: int, total: int) -> None:
        """Nothing."""

    def reused(self, step: Step, index: int, total: int) -> None:
        """Nothing."""

    def advanced(self, step: Step, done: int, total: int) -> None:
        """Nothing."""

    def finished(self, step: Step, seconds: float) -> None:
        """Nothing."""


def build(
    student: str,
    out: Path | str = "pack",
    *,
    targets: Sequence[str] = DEFAULT_TARGETS,
    schemes: Sequence[str] = (),
    calibration: str | None = None,
    ranges: str = "minmax",
    bias_correction: bool = True,
    fold_preprocessing: bool = False,
    image_inputs: bool = False,
    metrics: Sequence[str] = (),
    latency: str = "quick",
    threads: int = 1,
    limits: Limits | None = None,
    store: Path | str | None = "",
    jobs: int = 0,
    work: Path | None = None,
    watcher: Watcher | None = None,
    tell: Tell = lambda *_: None,
    warn: Callable[[str], None] = lambda _: None,
) -> Pack:
    """Export, verify, time and pack a student.

    Args:
        student: "student.py:student", "model.pt2", "model.onnx" or a Hugging Face model folder.
        out: folder of the pack; replaced whole when it is a pack already.
        targets: names that ``edgepack targets`` lists, or .toml files.
        schemes: for every target; empty for fp32, and w8a8 as well when there is a calibration set.
        calibration: a manifest, or the name of a shipped one. Static schemes need it.
        ranges: "minmax" or "mse".
        fold_preprocessing: let the artifacts take pixels 0..255 in place of normalized values; inputs keep their names, shapes and type.
            The student needs a preprocessing, and the pack's says that it is folded.
        image_inputs: let Core ML artifacts take the image as an image (a pixel buffer) in place of an array; folds the preprocessing.
        metrics: "file.py:function", called with (outputs by name, labels), returning a number.
        latency: a profile name ("quick", "smoke", "mlperf") or "none".
        limits: of every step; 600 s and 8 GiB by default.
        store: where results of steps are kept and found again; "" for $EDGEPACK_STORE or the user's cache, None for nowhere.
        jobs: steps at once; 0 for as many as there are processors and memory for.
        work: copies the files and logs of every step there.
        watcher: told of steps, tell of timing, warn of what a user should know and that ends nothing.

    Returns:
        The manifest, also of artifacts that failed a gate: look at ``artifact.failures``.

    Raises:
        EdgepackError: bad input (exit code 2) or a failed step (3); nothing is left at ``out``.
    """
    if threads < 1:
        raise RequestError(f"{threads} threads cannot run anything", "give 1 or more")
    timing = Timing(None if latency == "none" else profile(latency), threads)
    request = request_of(
        student,
        targets=targets,
        schemes=schemes,
        calibration=calibration,
        ranges=ranges,
        bias_correction=bias_correction,
        fold_preprocessing=fold_preprocessing,
        image_inputs=image_inputs,
        metrics=metrics,
        limits=limits,
    )
    keeping = Keeping(_place(store), Manner(jobs, keep=work), warn)
    return build_pack(request, Path(out), timing, watcher or Silent(), tell, keeping)


def request_of(
    student: str,
    *,
    targets: Sequence[str] = DEFAULT_TARGETS,
    schemes: Sequence[str] = (),
    calibration: str | None = None,
    ranges: str = "minmax",
    bias_correction: bool = True,
    fold_preprocessing: bool = False,
    image_inputs: bool = False,
    metrics: Sequence[str] = (),
    limits: Limits | None = None,
) -> BuildRequest:
    """What ``build`` is asked, checked and made explicit.

    Raises:
        RequestError: options that do not fit together.
    """
    chosen = _targets(targets)
    manifest = find_manifest(calibration) if calibration else None
    evaluation = CalibrationSet.load(manifest).evaluation if manifest is not None else None
    refuse_metrics_without_data(metrics, evaluation is not None)
    if ranges not in ("minmax", "mse"):
        raise RequestError(f"range method '{ranges}' is not known", "use minmax or mse")
    own_codes = is_known_to_hold_codes(student)
    folds = fold_preprocessing or image_inputs
    _refuse_unfitting_images(chosen, folds and own_codes, image_inputs)
    return BuildRequest(
        student=student,
        targets=chosen,
        schemes={target.name: _schemes(target, schemes, manifest is not None, own_codes) for target in chosen},
        manifest=manifest,
        method=ranges,
        bias_correction=bias_correction,
        metrics=tuple(metrics),
        has_evaluation=evaluation is not None,
        own_codes=own_codes,
        fold_preprocessing=folds,
        image_inputs=image_inputs,
        by_student=evaluation is not None and evaluation.labels_of_student,
        limits=limits or Limits(),
    )


def plan(
    request: BuildRequest, out: Path | str = "pack", *, store: Path | str = "", jobs: int = 0, watcher: Watcher | None = None
) -> list[Forecast]:
    """What a build of ``request`` into ``out`` would do, and why: the steps in order. Nothing runs but a student's own Python.

    Raises:
        EdgepackError: the student cannot be made, or bad input.
    """
    held = store_place(store)
    with opened(held) as open_store:
        before = open_store.last_build(build_name(request.student, Path(out)))
        return forecast(pipeline(request).plan, open_store, before, watcher or Silent(), Manner(jobs))


def gate(
    pack: Path | str, budgets: Mapping[str, float] | None = None, *, targets: Sequence[str] = (), schemes: Sequence[str] = ()
) -> Checks:
    """Whether a pack, with what was measured of it, keeps its budgets.

    Args:
        pack: its folder.
        budgets: in place of its targets' own: "latency_p90_ms", "size_bytes", "memory_peak_bytes", "accuracy_drop_points", ...; with
            "raspberry-pi-5:" before the name for one target alone.
        targets, schemes: which artifacts; all when none is named.

    Returns:
        A check for each budget of each artifact; ``.demand()`` raises GateError at the first that fails.

    Raises:
        EdgepackError: it is no pack, a measurement in it is damaged, or a budget is none.
    """
    folder = Path(pack)
    manifest = load_pack(folder)
    asked = {(artifact.target, artifact.scheme) for artifact in chosen(manifest, targets, schemes)}
    found = checks(manifest, measurements_of(folder, manifest), budgets)
    return Checks(check for check in found if (check.target, check.scheme) in asked)


def _place(store: Path | str | None) -> Path | None:
    """Where the store is that a caller names."""
    return None if store is None else store_place(store)


def store_place(store: Path | str = "") -> Path:
    """The store's folder: as given, or for "" $EDGEPACK_STORE or the user's cache."""
    return Path(store) if str(store) else default_place()


def _targets(names: Sequence[str]) -> tuple[Target, ...]:
    """The targets by name; RequestError when there is none, or two files give the same name."""
    chosen = tuple(load_target(name) for name in dict.fromkeys(names))
    held = [target.name for target in chosen]
    if not held:
        raise RequestError("no target was named", "name one with -t; edgepack targets lists them")
    if len(set(held)) < len(held):
        raise RequestError(f"two of the targets are called {max(held, key=held.count)}", "give each its own name in its .toml file")
    return chosen


def _refuse_unfitting_images(targets: Sequence[Target], folds_codes: bool, image_inputs: bool) -> None:
    """RequestError for images where no target has them, or pixels where the student's own codes are of something else."""
    if image_inputs and not any(target.backend == "coreml" for target in targets):
        raise RequestError("image inputs are Core ML's, and no target of this build is", "add -t ios, or leave --image-inputs out")
    if folds_codes:
        raise RequestError(
            "the student carries codes of its own, those of its normalized input among them", "leave --fold-preprocessing out"
        )


def _by_default(target: Target) -> Sequence[str]:
    """Exact and smallest; everything a target carries when it carries neither."""
    return [scheme for scheme in target.schemes if scheme in _DEFAULT_SCHEMES] or target.schemes


def _schemes(target: Target, asked: Sequence[str], calibrated: bool, own_codes: bool) -> tuple[str, ...]:
    """The schemes of one target; RequestError for one it does not carry, that lacks a calibration, or that would round codes again."""
    parsed = [Scheme.parse(name) for name in dict.fromkeys(asked or _by_default(target))]
    for scheme in parsed:
        if scheme.name not in target.schemes:
            raise RequestError(f"target {target.name} does not carry scheme {scheme.name}", f"it carries {', '.join(target.schemes)}")
        if asked and own_codes and not scheme.is_static:
            raise RequestError(f"the student carries codes of its own, which scheme {scheme.name} cannot keep", "use scheme w8a8")
        if asked and scheme.is_static and not (calibrated or own_codes):
            raise RequestError(f"scheme {scheme.name} needs a calibration set", "give one with -c manifest.toml")
    if own_codes:
        return _static(parsed, target)
    possible = tuple(scheme.name for scheme in parsed if calibrated or not scheme.is_static)
    if not possible:
        raise RequestError(f"every scheme of target {target.name} needs a calibration set", "give one with -c manifest.toml")
    return possible


def _static(schemes: Sequence[Scheme], target: Target) -> tuple[str, ...]:
    """The static ones, which keep a student's own codes."""
    static = tuple(scheme.name for scheme in schemes if scheme.is_static)
    if not static:
        raise RequestError(f"target {target.name} carries no scheme that keeps the student's own codes", "leave the target out")
    return static
