"""The plan of a build: what depends on what, for which targets and schemes."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from edgepack.converter.pipeline import BuildRequest, inspection, pipeline
from edgepack.converter.step import Limits, Output, Step
from edgepack.targets import load_target

PI, ANDROID, IOS = (load_target(name) for name in ("raspberry-pi-5", "android", "ios"))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.toml"
    path.write_text('name = "set"\n[calibration]\nnpz = "calibration.npz"\n')
    return path


def request(*targets: object, schemes: tuple[str, ...], **fields: object) -> BuildRequest:
    return BuildRequest("model.onnx", targets, {target.name: schemes for target in targets}, **fields)  # type: ignore[arg-type, attr-defined]


def test_a_real_valued_build_needs_no_calibration() -> None:
    plan = pipeline(request(PI, ANDROID, schemes=("fp32",))).plan
    assert [step.name for step in plan.steps if " " not in step.name] == ["capture", "hub", "samples", "reference"]
    assert {step.name for step in plan.steps if " " in step.name} == {
        f"{target} fp32: {verb}" for target in ("raspberry-pi-5", "android") for verb in ("write", "run", "judge")
    }


def test_all_targets_of_a_static_scheme_share_one_quantized_hub(manifest: Path) -> None:
    build = pipeline(request(PI, ANDROID, IOS, schemes=("fp32", "w8a8"), manifest=manifest))
    assert list(build.quantized) == ["w8a8"]
    models = {(branch.target.name, branch.scheme): branch.write.inputs["model"] for branch in build.branches}
    assert {models[target, "w8a8"] for target in ("raspberry-pi-5", "android", "ios")} == {Output("quantize w8a8", "model.onnx")}
    assert {models[target, "fp32"] for target in ("raspberry-pi-5", "android", "ios")} == {Output("hub", "model.onnx")}


def test_the_one_target_whose_runtime_keeps_states_says_so_to_the_writer() -> None:
    build = pipeline(request(PI, IOS, load_target("ios18"), schemes=("fp32",)))
    told = {branch.target.name: branch.write.parameters.get("keeps_state") for branch in build.branches}
    assert told == {"raspberry-pi-5": None, "ios": None, "ios18": True}


def test_scales_are_narrow_for_all_when_one_target_computes_them_in_fp16(manifest: Path) -> None:
    def scale_dtype(*targets: object) -> str:
        build = pipeline(request(*targets, schemes=("w8a8",), manifest=manifest))
        return str(build.quantized["w8a8"].parameters["demands"]["scale_dtype"])

    assert (scale_dtype(PI, ANDROID), scale_dtype(PI, IOS)) == ("float32", "float16")


def test_every_scheme_but_fp32_is_judged_against_what_its_rounding_leaves(manifest: Path) -> None:
    build = pipeline(request(ANDROID, schemes=ANDROID.schemes, manifest=manifest))
    assert {branch.scheme: str(branch.judge.inputs.get("simulated", "")) for branch in build.branches} == {
        "fp32": "",
        "fp16": str(Output("simulate fp16 weights", "simulated.npz")),
        **{scheme: str(Output(f"quantize {scheme}", "simulated.npz")) for scheme in ("w8", "w8d8", "w8a8")},
    }


def test_schemes_without_calibration_need_none() -> None:
    build = pipeline(request(PI, schemes=("w8", "w8d8")))
    assert build.observe is None and list(build.quantized) == ["w8", "w8d8"]
    assert {scheme: step.parameters["dynamic"] for scheme, step in build.quantized.items()} == {"w8": False, "w8d8": True}
    assert [step.name for step in build.plan.steps if step.name.startswith("quantize")] == ["quantize w8", "quantize w8d8"]


@pytest.mark.parametrize("corrects", [True, False])
def test_int8_weights_depend_on_a_calibration_set_that_corrects_their_biases(manifest: Path, corrects: bool) -> None:
    step = pipeline(request(PI, schemes=("w8",), manifest=manifest, bias_correction=corrects)).quantized["w8"]
    assert ("calibration" in step.inputs, step.parameters["bias_correction"]) == (corrects, corrects)
    alone = pipeline(request(PI, schemes=("w8",))).quantized["w8"]
    assert "calibration" not in alone.inputs and alone.parameters["bias_correction"] is False


def test_fp16_is_simulated_as_each_target_computes_it_and_written_from_the_hub() -> None:
    build = pipeline(request(ANDROID, IOS, schemes=("fp16",)))
    assert {computes: step.name for computes, step in build.halves.items()} == {
        False: "simulate fp16 weights",
        True: "simulate fp16 arithmetic",
    }
    assert {branch.write.inputs["model"] for branch in build.branches} == {Output("hub", "model.onnx")}
    simulated = {branch.target.name: branch.judge.inputs["simulated"] for branch in build.branches}
    assert simulated == {"android": build.halves[False]["simulated.npz"], "ios": build.halves[True]["simulated.npz"]}


def test_folding_gives_every_artifact_the_model_and_the_samples_on_pixels_and_the_student_its_own(manifest: Path) -> None:
    build = pipeline(request(PI, ANDROID, schemes=("fp32", "w8a8"), manifest=manifest, fold_preprocessing=True))
    folded, pixels = Output("fold preprocessing", "model.onnx"), Output("capture", "pixels.json")
    assert {branch.write.inputs["student"] for branch in build.branches} == {pixels}
    assert {branch.write.inputs["model"] for branch in build.branches if branch.scheme == "fp32"} == {folded}
    assert build.quantized["w8a8"].inputs["hub"] == folded
    assert build.samples.parameters == {"as_pixels": True, "files": ["calibration.npz"]}
    assert build.reference.inputs["folded"] == Output("capture", "student.json")
    assert build.observe is not None and build.observe.inputs["pixels"] == pixels
    assert build.canonical in build.plan.steps and build.hub in build.plan.steps


def test_weights_take_the_factor_of_preprocessing_unless_their_scales_are_narrow(manifest: Path) -> None:
    def absorbs(*targets: object, schemes: tuple[str, ...]) -> bool:
        return bool(pipeline(request(*targets, schemes=schemes, manifest=manifest, fold_preprocessing=True)).hub.parameters["absorb"])

    assert absorbs(PI, ANDROID, schemes=("fp32", "w8a8"))
    assert absorbs(PI, IOS, schemes=("fp32", "fp16"))
    assert not absorbs(PI, IOS, schemes=("fp32", "w8a8"))


def test_a_student_with_codes_of_its_own_is_adopted_without_calibration() -> None:
    build = pipeline(request(PI, IOS, schemes=("w8a8",), own_codes=True))
    assert build.observe is None
    assert set(build.quantized["w8a8"].inputs) == {"hub", "golden"}
    assert all(branch.judge.inputs["constraints"] == Output("quantize w8a8", "constraints.json") for branch in build.branches)


def test_a_latency_budget_and_what_the_hardware_can_do_change_no_step(manifest: Path) -> None:
    budgets = replace(PI.budgets, latency_p90_ms=5.0, size_bytes=9, memory_peak_bytes=9)
    other = replace(PI, hardware=None, budgets=budgets)
    plans = [pipeline(request(target, IOS, schemes=("fp32", "w8", "w8a8"), manifest=manifest)).plan for target in (PI, other)]
    assert PI.hardware is not None and plans[0].steps == plans[1].steps
    stricter = replace(PI, budgets=replace(PI.budgets, accuracy_drop_points=0.1))
    assert pipeline(request(stricter, IOS, schemes=("fp32", "w8", "w8a8"), manifest=manifest)).plan.steps != plans[0].steps


def test_an_evaluation_set_is_run_by_student_and_artifact(manifest: Path) -> None:
    build = pipeline(request(PI, schemes=("fp32",), manifest=manifest, has_evaluation=True))
    (branch,) = build.branches
    assert branch.run.inputs["evaluation"] == Output("samples", "evaluation.npz")
    assert branch.judge.inputs["evaluation_outputs"] == branch.run["evaluation.npz"]
    assert branch.judge.inputs["student_evaluation"] == build.reference["evaluation_outputs.npz"]
    assert "evaluation.npz" in build.plan.steps[[step.name for step in build.plan.steps].index("samples")].outputs


def test_limits_reach_every_step_and_a_step_that_waits_for_a_runner_outlives_it() -> None:
    limits = Limits(7, 2**28)
    build = pipeline(request(PI, schemes=("fp32",), limits=limits))
    waiting = {step.name for step in build.plan.steps if step.limits != limits}
    assert waiting == {"raspberry-pi-5 fp32: run"}
    run: Step = build.branches[0].run
    assert run.limits.seconds > 7 == run.parameters["seconds"] and run.parameters["memory"] == 2**28


def test_two_targets_of_one_name_are_a_defect_the_plan_notices() -> None:
    with pytest.raises(ValueError, match="share a name"):
        _ = pipeline(request(PI, replace(ANDROID, name=PI.name), schemes=("fp32",))).plan


def test_inspection_asks_every_backend() -> None:
    steps = inspection("model.onnx", ["ort", "tflite"], ["w8"], Limits())
    assert steps.look.inputs == {"hub": steps.hub["model.onnx"], "example": steps.capture["example.npz"]}
    assert steps.look.parameters == {"backends": ["ort", "tflite"]} and steps.student is None


def test_a_student_of_python_is_identified_and_what_loads_it_depends_on_that_alone() -> None:
    build = pipeline(replace_student("student.py:student"))
    assert build.student is not None and not build.student.cached
    for step in (build.capture, build.reference):
        assert step.inputs["identity"] == build.student["identity.json"] and not step.reads and "student" in step.unkeyed


def test_a_student_in_a_file_is_read_by_what_loads_it(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").touch()
    build = pipeline(replace_student(str(tmp_path / "model.pt2")))
    assert build.student is None
    assert build.capture.reads == build.reference.reads == {"data model.pt2": tmp_path / "model.pt2"}


def replace_student(student: str) -> BuildRequest:
    return BuildRequest(student, (PI,), {PI.name: ("fp32",)})


def test_samples_that_python_makes_and_metrics_of_the_users_run_every_time(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text('name = "set"\n[calibration]\npython = "data.py:samples"\n')
    build = pipeline(request(PI, schemes=("fp32",), manifest=tmp_path / "set.toml", metrics=("m.py:f",)))
    assert not build.samples.cached and not build.branches[0].judge.cached
    assert [step.name for step in build.plan.steps if not step.cached] == ["samples", "raspberry-pi-5 fp32: judge"]
