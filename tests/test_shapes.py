"""Which strokes belong together, and which of them are the digit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from digits import shapes
from digits.shapes import components, encircles, grouped, is_crowded, rivals, without_frames

SIZE = 240


def ink_of(*lines: tuple[tuple[int, int], tuple[int, int]], pen: int = 8, level: float = 120) -> np.ndarray:
    ink = np.zeros((SIZE, SIZE), np.float32)
    for start, stop in lines:
        cv2.line(ink, start, stop, level, pen)
    return ink


def crowded(ink: np.ndarray) -> bool:
    labels, parts = components(ink, 10)
    return is_crowded(labels, grouped(parts, *ink.shape))


def shapes_of(ink: np.ndarray) -> list:
    return grouped(components(ink, 10)[1], *ink.shape)


@pytest.mark.parametrize("side", [300, 299])
@pytest.mark.parametrize("at", [100, 101])
def test_a_thin_line_is_found_whole_wherever_it_lies(side: int, at: int) -> None:
    ink = np.zeros((side, side), np.float32)
    ink[at : at + 2, at : at + 80] = 120
    for seen in (ink, ink.T.copy()):
        (shape,) = components(seen, 10)[1]
        assert sorted(shape.box[2:]) == [2, 80]


def test_no_ink_is_no_shape() -> None:
    assert shapes_of(np.zeros((SIZE, SIZE), np.float32)) == []


def test_specks_are_no_shapes() -> None:
    ink = np.zeros((SIZE, SIZE), np.float32)
    ink[::20, ::20] = 100
    assert shapes_of(ink) == []


def test_a_small_gap_in_a_stroke_does_not_make_two_shapes() -> None:
    assert len(shapes_of(ink_of(((120, 40), (120, 110)), ((120, 124), (120, 200))))) == 1


def test_a_detached_bar_belongs_to_what_is_under_it() -> None:
    assert len(shapes_of(ink_of(((90, 80), (90, 190)), ((90, 190), (140, 190)), ((92, 62), (140, 60))))) == 1


def test_where_many_parts_joined_the_main_one_comes_after_them_alone() -> None:
    digit = ((120, 40), (120, 150))
    under = [((x, 166), (x + 2, 172)) for x in (104, 116, 128, 140)]
    assert [len(shape.labels) for shape in shapes_of(ink_of(digit, under[1], pen=6))] == [2]
    joined, alone, *_ = shapes_of(ink_of(digit, *under, pen=6))
    assert len(joined.labels) > 2
    assert alone.labels == joined.labels[:1]
    assert alone.box[3] < joined.box[3]
    assert shapes.ALONE * joined.score <= alone.score < joined.score


def test_a_stroke_on_the_edge_of_a_shadow_is_parted_from_it() -> None:
    ink = ink_of(((110, 70), (170, 90)), ((170, 90), (120, 180)), level=200)
    ink = np.maximum(ink, ink_of(((0, 150), (SIZE, 30)), pen=30, level=50))
    first = shapes_of(ink)[0]
    assert first.sides == 0
    assert first.box[0] > 100
    assert first.box[3] > 100


def test_a_pale_stroke_with_a_dark_spot_on_it_stays_whole() -> None:
    ink = np.maximum(ink_of(((120, 70), (120, 170)), level=60), ink_of(((120, 118), (120, 122)), level=200))
    (whole,) = shapes_of(ink)
    assert whole.box[3] > 100


def test_two_strokes_side_by_side_are_two_shapes_and_rivals() -> None:
    shapes = shapes_of(ink_of(((70, 60), (70, 180)), ((160, 60), (160, 180))))
    assert len(shapes) == 2
    assert len(rivals(shapes)) == 1


@pytest.mark.parametrize("gap", [2, 6])
def test_two_digits_that_all_but_touch_are_one_shape_and_crowded(gap: int) -> None:
    """A 1 and a 7, whose gap is no wider than their strokes."""
    right = 90 + 8 + gap
    one, other = ((90, 60), (90, 180)), (((right, 60), (right + 50, 60)), ((right + 50, 60), (right + 30, 180)))
    found = shapes_of(ink_of(one, *other))
    assert len(found[0].labels) == 2
    assert crowded(ink_of(one, *other))
    assert not crowded(ink_of(*other))


def test_a_line_of_a_form_that_all_but_touches_a_digit_is_no_digit() -> None:
    digit = ((90, 60), (140, 60)), ((140, 60), (110, 190))
    ink = ink_of(*digit, pen=6)
    cv2.line(ink, (83, 56), (83, 194), 120, 3)
    assert len(shapes_of(ink)[0].labels) == 2
    assert not crowded(ink)


def test_parts_of_one_digit_are_not_crowded() -> None:
    four = ((90, 60), (70, 130)), ((70, 130), (150, 130)), ((118, 100), (118, 120)), ((118, 140), (118, 190))
    five = ((90, 80), (90, 190)), ((90, 190), (140, 190)), ((92, 62), (140, 60))
    for digit in (four, five):
        assert not crowded(ink_of(*digit))


@pytest.mark.parametrize("gap", [2, 4, 6])
@pytest.mark.parametrize("loops", [[(120, 60)], [(85, 35), (158, 38)]], ids=["a 0", "an 8"])
def test_a_digit_that_is_broken_from_top_to_foot_is_one(loops: list[tuple[int, int]], gap: int) -> None:
    ink = np.zeros((SIZE, SIZE), np.float32)
    for middle, reach in loops:
        cv2.ellipse(ink, (120, middle), (38, reach), 0, 0, 360, 120, 8)
    ink[:, 120 : 120 + gap] = 0
    assert len(shapes_of(ink)[0].labels) == 2
    assert not crowded(ink)


def test_what_reaches_in_from_outside_is_no_rival() -> None:
    assert rivals(shapes_of(ink_of(((120, 60), (120, 180)), ((236, 60), (236, 180))))) == []


def test_a_small_mark_is_no_rival() -> None:
    assert rivals(shapes_of(ink_of(((120, 60), (120, 180)), ((180, 100), (180, 120))))) == []


def test_the_shape_inside_comes_before_a_larger_one_along_the_frame() -> None:
    ink = ink_of(((120, 60), (120, 180)))
    ink[:, :14] = 150
    assert shapes_of(ink)[0].box[0] > 100


def test_strokes_come_before_a_blot_of_more_ink() -> None:
    ink = ink_of(((150, 60), (150, 180)), ((150, 60), (200, 100)))
    cv2.circle(ink, (40, 200), 50, 100.0, -1)
    assert shapes_of(ink)[0].box[0] > 100


def test_labels_name_the_components_of_a_shape() -> None:
    ink = ink_of(((120, 40), (120, 110)), ((120, 124), (120, 200)))
    labels, parts = components(ink, 10)
    shape = grouped(parts, *ink.shape)[0]
    assert set(np.unique(labels[labels > 0])) == set(shape.labels)


def scribble(seed: int, marks: int) -> np.ndarray:
    """Strokes of different darkness and width anywhere, also at the frame."""
    rng = np.random.default_rng(seed)
    ink = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(marks):
        start, stop = rng.integers(0, SIZE, (2, 2)).tolist()
        cv2.line(ink, start, stop, float(rng.uniform(40, 250)), int(rng.integers(1, 9)))
    return ink + rng.uniform(0, 8, ink.shape).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_a_component_is_measured_as_if_it_were_alone(seed: int) -> None:
    ink = scribble(seed, 6)
    labels, found = components(ink, 10)
    assert found
    for shape in found:
        mask = np.pad(labels == shape.labels[0], 1).astype(np.uint8)
        inside = np.sort(ink[mask[1:-1, 1:-1] > 0])
        inner = int(cv2.erode(mask, np.ones((3, 3), np.uint8)).sum())
        assert shape.box == cv2.boundingRect(mask[1:-1, 1:-1])
        assert shape.mass == pytest.approx(float(inside.sum()), rel=1e-4)
        assert shape.level == inside[len(inside) * 7 // 10]
        assert shape.stroke == pytest.approx(2 * len(inside) / max(len(inside) - inner, 1))


def test_the_number_of_passes_over_a_map_does_not_grow_with_what_is_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    for name in ("connectedComponentsWithStatsWithAlgorithm", "erode"):
        real = getattr(cv2, name)
        monkeypatch.setattr(
            shapes.cv2, name, lambda *args, real=real, name=name, **named: passes.append(name) or real(*args, **named)
        )
    counts = []
    for marks in (1, 40):
        passes.clear()
        components(scribble(0, marks), 10)
        counts.append(sorted(passes))
    assert counts[0] == counts[1]
    assert len(counts[0]) == 3


FRAME = (((30, 40), (210, 30)), ((210, 30), (218, 205)), ((218, 205), (38, 215)), ((38, 215), (30, 40)))
DIGIT = (((100, 80), (140, 80)), ((140, 80), (110, 170)))


def kept_of(ink: np.ndarray) -> list:
    return without_frames(*components(ink, 10))


def test_a_frame_around_a_digit_is_no_stroke() -> None:
    assert [shape.size for shape in kept_of(ink_of(*FRAME, *DIGIT, pen=5))] == [
        max(s.size for s in kept_of(ink_of(*DIGIT, pen=5)))
    ]


@pytest.mark.parametrize("width", [110, 150, 190])
@pytest.mark.parametrize("share", [0.3, 0.45, 0.6])
def test_a_small_digit_in_a_frame_is_left_alone_too(width: int, share: float) -> None:
    """Such a frame lies along an ellipse as closely as a ring drawn by hand, in which a digit would be larger."""
    height = round(110 * share)
    digit = ((105, 120 - height // 2), (130, 120 - height // 2)), ((130, 120 - height // 2), (112, 120 + height // 2))
    ink = ink_of(*digit, pen=4)
    alone = [shape.size for shape in kept_of(ink)]
    cv2.rectangle(ink, (120 - width // 2, 65), (120 + width // 2, 175), 120, 4)
    assert [shape.size for shape in kept_of(ink)] == alone


def test_the_fields_of_a_form_are_no_strokes_and_no_rivals() -> None:
    ink = ink_of(*DIGIT, pen=5)
    for left in (10, 82, 154):
        cv2.rectangle(ink, (left, 60), (left + 72, 190), 120, 3)
    assert [shape.size for shape in kept_of(ink)] == [max(shape.size for shape in kept_of(ink_of(*DIGIT, pen=5)))]
    apart = ink_of(*DIGIT, pen=5)
    for left in (10, 85, 160):
        cv2.rectangle(apart, (left, 60), (left + 66, 190), 120, 3)
    assert len(kept_of(apart)) == 1


def test_a_line_of_a_form_is_no_rival() -> None:
    beside = ((200, 40), (200, 200))
    assert rivals(shapes_of(ink_of(*DIGIT, beside, pen=3))) == []
    assert rivals(shapes_of(ink_of(*DIGIT, beside, pen=8))) != []


def test_an_empty_rectangle_may_be_a_digit() -> None:
    assert len(kept_of(ink_of(*FRAME, pen=5))) == 1


@pytest.mark.parametrize("ends", [(0, 360), (20, 345), (-60, 250)])
def test_a_ring_around_a_digit_is_no_stroke(ends: tuple[int, int]) -> None:
    ink = ink_of(*DIGIT, pen=6)
    alone = [shape.size for shape in kept_of(ink)]
    cv2.ellipse(ink, (120, 122), (82, 96), 15, *ends, 120, 6)
    assert [shape.size for shape in kept_of(ink)] == alone


def test_of_print_beside_the_one_field_of_a_form_nothing_is_left_but_of_what_is_larger_than_it() -> None:
    ink = ink_of(*DIGIT, pen=5)
    alone = [shape.size for shape in kept_of(ink)]
    cv2.rectangle(ink, (80, 60), (160, 190), 120, 3)
    label = cv2.putText(np.zeros((SIZE, SIZE), np.uint8), "Age", (5, 150), cv2.FONT_HERSHEY_SIMPLEX, 1, 120, 4)
    assert [shape.size for shape in kept_of(np.maximum(ink, label.astype(np.float32)))] == alone
    cv2.line(ink, (200, 40), (190, 210), 120, 5)
    assert len(kept_of(ink)) == 2


def test_a_ring_of_another_map_is_known_by_the_digit_in_it() -> None:
    (digit,) = shapes_of(ink_of(*DIGIT, pen=6))
    ink = np.zeros((SIZE, SIZE), np.float32)
    cv2.ellipse(ink, (120, 122), (82, 96), 15, 0, 360, 120, 6)
    labels, (ring,) = components(ink, 10)
    assert encircles(labels, ring, [digit])
    assert not encircles(labels, ring, [ring])
    assert not encircles(labels, ring, [])


def test_an_arc_beside_a_digit_is_no_ring() -> None:
    ink = ink_of(*DIGIT, pen=6)
    cv2.ellipse(ink, (120, 122), (82, 96), 0, -90, 100, 120, 6)
    assert len(kept_of(ink)) == 2


def test_a_digit_with_a_line_under_it_is_there_with_the_line_and_without() -> None:
    digit = ((90, 50), (150, 50)), ((150, 50), (110, 160))
    (alone,) = shapes_of(ink_of(*digit))
    lined = shapes_of(ink_of(*digit, ((80, 180), (165, 184))))
    assert [len(shape.labels) for shape in lined] == [2, 1]
    assert abs(lined[1].size - alone.size) <= 2
    assert len(shapes_of(ink_of(*digit, ((100, 180), (120, 184))))) == 1, "a short one is a part of the digit"


def test_a_digit_in_a_comb_is_a_shape_of_its_own() -> None:
    ink = ink_of(((20, 170), (220, 170)), *(((x, 110), (x, 170)) for x in range(20, 221, 50)), pen=3)
    cv2.polylines(ink, [np.array([[85, 118], [105, 118], [94, 158]])], False, 120, 4)
    assert sorted(len(shape.labels) for shape in shapes_of(ink)) == [1, 1]


def test_a_ring_with_a_dot_in_it_is_kept() -> None:
    ink = np.zeros((SIZE, SIZE), np.float32)
    cv2.ellipse(ink, (120, 120), (60, 85), 0, 0, 360, 120, 8)
    assert len(kept_of(ink)) == 1
    cv2.line(ink, (120, 90), (120, 150), 120, 6)
    assert len(kept_of(ink)) == 2


def test_a_digit_that_touches_its_frame_is_kept_with_it() -> None:
    assert (
        len(kept_of(ink_of(*FRAME, ((100, 80), (140, 80)), ((140, 80), (34, 120)), ((150, 150), (200, 160)), pen=5)))
        == 2
    )
