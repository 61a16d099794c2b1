"""The node suite as a test: a sample of every operator family by default, everything under ``-m slow``."""

import functools

import numpy as np
import onnx
import pytest

from tests.conformance.cases import AS_GIVEN, FORMATS, LISTED, MAX_REFUSED, OLD, WEIGHTS, Survey, survey
from tests.conformance.node_suite import (
    Record,
    below_bar,
    by_case,
    check_lists,
    failures,
    in_form,
    listed_counts,
    passed_part,
    refused_part,
    run,
    tasks,
)
from tests.conformance.report import general
from tests.conformance.worker import CRASH, PASS, REFUSED, WRONG, Result, booleans_as_int32
from tests.old_runtime import demanded

# One case a family and, where there was one, the case that once failed.
SAMPLE = tuple(
    """
    test_abs test_add_bcast test_and2d test_argmax_keepdims_example test_averagepool_2d_pads_count_include_pad test_batchnorm_epsilon
    test_mish_expanded test_ceil test_clip_expanded test_concat_3d_axis_1 test_constant_pad test_conv_with_strides_padding
    test_convtranspose_pads test_depthtospace_crd_mode_example test_div test_dropout_default_ratio test_elu test_equal_bcast test_erf
    test_expand_dim_changed test_flatten_axis2 test_gather_negative_indices test_gelu_tanh_1 test_gemm_all_attributes
    test_globalaveragepool test_hardswish test_instancenorm_example test_leakyrelu
    test_logsoftmax_axis_1 test_matmul_3d test_maxpool_2d_same_upper test_not_2d test_pow_types_float32_int64 test_prelu_broadcast
    test_reduce_max_bool_inputs test_reduce_mean_keepdims_random test_reshape_allowzero_reordered
    test_resize_downsample_scales_linear_align_corners test_slice test_softmax_axis_2 test_split_equal_parts_1d_opset18 test_tile
    test_transpose_all_permutations_3 test_where_example test_size
    """.split()  # noqa: SIM905 - a table, not a column
)


@functools.cache
def found() -> Survey:
    return survey()


def told(records: list[Record]) -> list[str]:
    return [f"{held.format} {held.case} ({held.variant}): {held.result.outcome}, {held.result.reason}" for held in records]


def test_a_sample_of_node_cases_is_right_or_refused_with_a_reason() -> None:
    records = run(tasks(found(), FORMATS, SAMPLE), jobs=1)
    assert told(failures(records)) == []
    assert all(record.result.reason for record in records if record.result.outcome == REFUSED)
    passed = {name: {held.case for held in records if held.format == name and held.result.outcome == PASS} for name in FORMATS}
    # A converter that refused everything would be right too: most of the sample is of operators both formats have.
    assert all(len(cases) > len(SAMPLE) * 2 / 3 for cases in passed.values())


def test_the_committed_lists_name_every_eligible_case_of_the_installed_onnx() -> None:
    assert check_lists(found(), FORMATS) == []


@pytest.mark.slow
def test_no_node_case_is_wrong_or_crashes_and_few_of_the_listed_operators_are_refused() -> None:
    records = run(tasks(found(), FORMATS))
    assert told(failures(records)) == []
    assert all(refused_part(listed_counts(records, name)) <= MAX_REFUSED for name in FORMATS)
    assert below_bar(records, FORMATS) == []


def test_a_case_counts_once_in_each_form_and_one_of_a_single_input_in_both() -> None:
    given = [("a", AS_GIVEN, REFUSED), ("a", WEIGHTS, PASS), ("b", AS_GIVEN, PASS), ("c", AS_GIVEN, PASS), ("c", WEIGHTS, REFUSED)]
    records = [Record("tflite", case, form, "Add", Result(outcome)) for case, form, outcome in given]
    assert in_form(records, "tflite", AS_GIVEN) == {REFUSED: 1, PASS: 2} and in_form(records, "tflite", WEIGHTS) == {PASS: 2, REFUSED: 1}
    assert passed_part(in_form(records, "tflite", WEIGHTS)) == 2 / 3
    assert [line.split(":")[0] for line in below_bar(records, ["tflite"])] == [
        "tflite, all inputs but the first as weights",
        "tflite, as given",
    ]


@pytest.mark.slow
def test_no_node_case_is_wrong_or_crashes_in_tensorflow_lite_2_14() -> None:
    demanded()
    records = run(tasks(found(), (OLD,)))
    assert told(failures(records)) == []
    assert refused_part(listed_counts(records, OLD)) <= MAX_REFUSED


def test_every_listed_operator_is_one_of_onnx() -> None:
    """A misspelt operator would count for nothing."""
    assert all(onnx.defs.has(name) for name in LISTED)


def record(outcome: str, *, case: str = "test_a", operator: str = "Relu", form: str = "tflite") -> Record:
    return Record(form, case, "given", operator, Result(outcome, "why"))


@pytest.mark.parametrize(
    ("outcomes", "wanted"),
    [
        ([REFUSED, REFUSED], REFUSED),
        ([REFUSED, PASS], PASS),
        ([PASS, PASS], PASS),
        ([PASS, WRONG], WRONG),
        ([REFUSED, CRASH], CRASH),
    ],
)
def test_a_case_passes_when_one_form_does_and_none_is_wrong(outcomes: list[str], wanted: str) -> None:
    (held,) = by_case([record(outcome) for outcome in outcomes])
    assert held.outcome == wanted


def test_the_part_refused_is_of_the_cases_of_listed_operators_in_one_format() -> None:
    records = [
        record(PASS),
        record(REFUSED, case="test_b", operator="Gelu (expanded)"),
        record(REFUSED, case="test_c", operator="LSTM"),
        record(REFUSED, case="test_a", form="coreml"),
    ]
    counts = listed_counts(records, "tflite")
    assert (counts[PASS], counts[REFUSED], refused_part(counts)) == (1, 1, 0.5)
    assert refused_part(listed_counts([], "tflite")) == 0


def test_boolean_ends_become_int32_and_the_model_computes_the_same() -> None:
    case = found().cases["test_and2d"]
    model = booleans_as_int32(case.model)
    onnx.checker.check_model(model, full_check=True)
    feed = {name: array.astype(np.int32) for name, array in case.inputs.items()}
    (given,) = onnx.reference.ReferenceEvaluator(model).run(None, feed)
    assert given.dtype == np.int32 and np.array_equal(given, case.outputs["and"])


def test_reasons_that_differ_in_names_and_sizes_only_count_as_one() -> None:
    assert general("tflite: Tan 'n0': operator has no lowering (and 2 more; edgepack inspect lists all)") == "Tan has no lowering"
    assert general("coreml: Gather 'n': input 1 ('i') is computed at run time") == "input 1 ('…') is computed at run time"
