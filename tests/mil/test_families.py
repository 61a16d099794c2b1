"""Operations beside the usual ones, against values worked out by hand or by their definition."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.mil.errors import MilError
from edgepack.mil.program import Program

from .packages import builder, interpret, save_package

NUMBERS = np.random.default_rng(4)


def interpret_on_ios_18(body: Any, **inputs: Any) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        return list(Program.load(save_package(body, inputs, Path(folder), ios=18)).run(inputs).values())


def test_attention_is_a_softmax_of_products_and_a_false_mask_leaves_out() -> None:
    query, key, value = (NUMBERS.normal(0, 1, (2, size, 4)).astype(np.float32) for size in (3, 5, 5))
    is_seen = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1, 0, 0, 0, 0]], np.float32)

    def body(query: Any, key: Any, value: Any, mask: Any) -> Any:
        seen = builder().cast(x=mask, dtype="bool")
        given = {"query": query, "key": key, "value": value}
        attend = builder().scaled_dot_product_attention
        return [attend(**given), attend(**given, attn_mask=mask), attend(**given, attn_mask=seen)]

    def weighted(bias: Any) -> Any:
        raised = np.exp(query.astype(np.float64) @ key.swapaxes(1, 2) / 2 + bias)
        return raised / raised.sum(-1, keepdims=True) @ value

    with np.errstate(divide="ignore"):
        wanted = [weighted(0), weighted(is_seen), weighted(np.log(is_seen))]
    found = interpret_on_ios_18(body, query=query, key=key, value=value, mask=is_seen)
    # Sums of 4 and 5 products of a size around 1, in 24 bits.
    np.testing.assert_allclose(np.stack(found), np.stack(wanted), atol=1e-5, rtol=0)


def test_slice_update_writes_where_slice_by_index_reads() -> None:
    x, update = np.zeros((3, 4), np.float32), np.array([[1, 2]], np.float32)

    def body(x: Any, update: Any) -> Any:
        return builder().slice_update(x=x, update=update, begin=[1, 3], end=[2, 0], stride=[1, -2], end_mask=[False, True])

    assert interpret_on_ios_18(body, x=x, update=update)[0].tolist() == [[0, 0, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]]


def test_sequences_are_reversed_up_to_their_lengths_whichever_axis_comes_first() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)

    def body(x: Any) -> Any:
        return [
            builder().reverse_sequence(x=x, lengths=[0, 3, 4], seq_axis=1, batch_axis=0),
            builder().reverse_sequence(x=x, lengths=[1, 2, 3, 0], seq_axis=0, batch_axis=1),
        ]

    along_rows, along_columns = interpret(body, x=x)
    assert along_rows.tolist() == [[0, 1, 2, 3], [6, 5, 4, 7], [11, 10, 9, 8]]
    assert along_columns.tolist() == [[0, 5, 10, 3], [4, 1, 6, 7], [8, 9, 2, 11]]


def test_windows_blocks_bands_and_zeros() -> None:
    def body(x: Any) -> Any:
        image = builder().expand_dims(x=x, axes=[0, 1])
        parts = builder().space_to_batch(x=image, block_shape=[2, 2], paddings=[[1, 0], [0, 0]])
        return [
            builder().sliding_windows(x=x, axis=1, size=2, stride=2),
            parts,
            builder().batch_to_space(x=parts, block_shape=[2, 2], crops=[[1, 0], [0, 0]]),
            builder().band_part(x=x, lower=1, upper=0),
            builder().non_zero(x=builder().band_part(x=x, lower=0, upper=0)),
        ]

    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    windows, parts, whole, band, places = interpret(body, x=x)
    assert windows.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]
    # The padded row comes first: block place (0, 0) holds its zeros and row 1.
    assert parts[:, 0].tolist() == [[[0, 0], [4, 6]], [[0, 0], [5, 7]], [[0, 2], [8, 10]], [[1, 3], [9, 11]]]
    assert np.array_equal(whole[0, 0], x)
    assert band.tolist() == [[0, 0, 0, 0], [4, 5, 0, 0], [0, 9, 10, 0]]
    assert places.tolist() == [[1, 1], [2, 2]]


def test_counting_filling_and_marking() -> None:
    def body(count: Any) -> Any:
        end = builder().squeeze(x=count)
        return [
            builder().range_1d(start=np.int32(1), end=end, step=np.int32(3)),
            builder().fill(shape=builder().concat(values=[count, count], axis=0), value=np.float32(2)),
            builder().one_hot(
                indices=np.array([2, 0], np.int32), one_hot_vector_size=end, axis=0, on_value=np.int32(5), off_value=np.int32(1)
            ),
        ]

    counted, filled, marked = interpret(body, count=np.array([3], np.int32))
    assert (counted.tolist(), filled.tolist(), marked.tolist()) == ([1], [[2] * 3] * 3, [[1, 5], [1, 1], [5, 1]])
    with pytest.raises(MilError, match=r"outside \[0, 1\]"):
        interpret(body, count=np.array([2], np.int32))


def test_norms_over_neighbours_and_windows() -> None:
    x = np.array([3, 4, 0, 12], np.float32).reshape(1, 4, 1, 1)

    def body(x: Any) -> Any:
        return [
            builder().local_response_norm(x=x, size=2, alpha=np.float32(2), beta=np.float32(0.5), k=np.float32(0)),
            builder().l2_norm(x=x, epsilon=np.float32(0)),
            builder().l2_pool(x=builder().reshape(x=x, shape=[1, 1, 2, 2]), kernel_sizes=[1, 2], pad_type="custom", pad=[0, 0, 1, 0]),
        ]

    neighbours, norm, pooled = interpret(body, x=x)
    np.testing.assert_allclose(neighbours.ravel(), [1, 4 / 5, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(norm.ravel(), np.array([3, 4, 0, 12]) / 13, rtol=1e-6)
    np.testing.assert_allclose(pooled.ravel(), [3, 5, 0, 12], rtol=1e-6)


# The value at row h and column w is 1 + 4 h + w.
GRID = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)


def test_a_box_is_sampled_from_end_to_end_and_padded_outside() -> None:
    def body(x: Any) -> Any:
        forms = {"target_height": 2, "target_width": 2, "sampling_mode": "ALIGN_CORNERS", "pad_value": np.float32(-1)}
        corners = builder().crop_resize(x=x, boxes=np.array([[1.0, 3.0, 0.5, 4.0]], np.float32), **forms)
        centre = np.array([[2.0, 1.0, 2.0, 1.0]], np.float32)
        return [corners, builder().crop_resize(x=x, boxes=centre, box_coordinate_mode="CENTER_SIZE_WIDTH_FIRST", **forms)]

    corners, centred = interpret(body, x=GRID)
    assert corners[0, 0].tolist() == [[8, -1], [6, -1]]
    assert centred[0, 0].tolist() == [[4, 6], [8, 10]]


@pytest.mark.parametrize("mode", ["DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"])
def test_how_a_box_is_sampled_that_apple_shows_no_value_of_is_refused(mode: str) -> None:
    with pytest.raises(MilError, match=mode):
        interpret(lambda x: builder().crop_resize(x=x, boxes=np.ones((1, 4), np.float32), sampling_mode=mode), x=GRID)


def test_an_affine_map_of_corner_to_corner_coordinates() -> None:
    """A mirror image, and one moved right by half its width, which leaves two columns of the outside."""

    def body(x: Any, matrix: Any) -> Any:
        forms = {"sampling_mode": "bilinear", "padding_mode": "constant", "padding_value": np.float32(0)}
        forms |= {"coordinates_mode": "normalized_minus_one_to_one", "align_corners": True, "output_height": 1, "output_width": 3}
        return builder().affine(x=x, transform_matrix=matrix, **forms)

    x = np.array([[1, 2, 4]], np.float32).reshape(1, 1, 1, 3)
    for across, want in (([-1, 0, 0], [4, 2, 1]), ([1, 0, -1], [0, 1, 2])):
        assert interpret(body, x=x, matrix=np.array([[*across, 0, 1, 1]], np.float32))[0].ravel().tolist() == want


def test_resize_keeps_a_size_of_zero_and_takes_one_computed_at_run_time() -> None:
    x = np.array([[[0, 1]]], np.float32)
    body = lambda x, shape: builder().resize(x=x, shape=shape, resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS")  # noqa: E731
    (found,) = interpret(body, x=x, shape=np.array([0, 5], np.int32))
    np.testing.assert_allclose(found, [[[0, 0.1, 0.5, 0.9, 1]]], atol=1e-6)


def test_resize_takes_the_element_next_to_a_point_and_refuses_one_halfway() -> None:
    x = np.array([[[1, 2, 3]]], np.float32)

    def body(x: Any, shape: Any) -> Any:
        return builder().resize(x=x, shape=shape, resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR")

    # At 0, 3/5, 6/5, 9/5 and, clamped, 12/5.
    assert interpret(body, x=x, shape=np.array([1, 5], np.int32))[0].tolist() == [[[1, 2, 2, 3, 3]]]
    with pytest.raises(MilError, match="halfway"):
        interpret(body, x=x, shape=np.array([1, 6], np.int32))


def test_of_overlapping_boxes_the_best_is_kept_and_the_rest_is_padding() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 0, 2, 2], [0.5, 0, 2, 2], [9, 9, 1, 1]], np.float32)[None]
    scores = np.array([[0.5, 0], [0.9, 0], [0, 0.7], [0.1, 0.2]], np.float32)[None]

    def body(boxes: Any, scores: Any) -> Any:
        suppress = builder().non_maximum_suppression
        turned = {"boxes": builder().transpose(x=boxes, perm=[0, 2, 1]), "scores": builder().transpose(x=scores, perm=[0, 2, 1])}
        forms = {"iou_threshold": np.float32(0.3), "max_boxes": 3}
        return [suppress(**turned, **forms)[2], suppress(**turned, per_class_suppression=True, **forms)[2]]

    # Areas 4: boxes half a width apart share 2 of 6, a quarter 3 of 5. The third box is of another class.
    together, by_class = interpret(body, boxes=boxes, scores=scores)
    assert (together.tolist(), by_class.tolist()) == ([[1, 3, -1]], [[1, 2, 3]])


def test_random_numbers_are_given_only_where_they_are_certain() -> None:
    def body(x: Any) -> Any:
        return [
            builder().add(x=x, y=builder().random_normal(shape=[2], mean=np.float32(3), stddev=np.float32(0))),
            builder().random_bernoulli(shape=[2], prob=np.float32(1)),
            builder().random_uniform(shape=[2], low=np.float32(2), high=np.float32(2)),
        ]

    assert [found.tolist() for found in interpret(body, x=np.zeros(2, np.float32))] == [[3, 3], [1, 1], [2, 2]]
    with pytest.raises(MilError, match="draws random numbers"):
        interpret(lambda x: builder().add(x=x, y=builder().random_uniform(shape=[1])), x=np.zeros(1, np.float32))
