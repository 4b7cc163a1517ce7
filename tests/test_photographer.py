"""The synthetic photographer: its pictures, its pens and papers, and the training set it makes through imaging."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from digits import camera, handwriting, imaging, pens, scenery, workers
from digits.handwriting import DIGITS, field_of, field_of_strokes, strokes_of, thin, write_digit
from digits.photographer import (
    CUT_OUT,
    RECOGNISABLE,
    Shot,
    cut_out,
    likeness,
    make_photographs,
    photograph,
    reads_as_bar_or_ring,
    reference,
    shoot,
)

LABELS = np.arange(30, dtype=np.int64) % 10


def digit(label: int, seed: int = 0) -> np.ndarray:
    """A digit as MNIST would have it, written by our own hand."""
    field = write_digit(label, np.random.default_rng(seed))
    return reference(np.clip(5.5 - field.distance, 0, 1))


IMAGES = np.stack([digit(int(label), i) for i, label in enumerate(LABELS)])


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
def test_a_photograph_is_a_colour_picture_of_a_sensible_size(hardness: float) -> None:
    for seed in range(20):
        picture = photograph(IMAGES[seed], np.random.default_rng(seed), hardness)
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert 28 <= min(picture.shape[:2]) <= max(picture.shape[:2]) <= 1100


def test_the_same_generator_takes_the_same_photograph() -> None:
    first, again, other = (photograph(IMAGES[3], np.random.default_rng(seed), 0.7) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


def test_a_blank_digit_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        photograph(np.zeros((28, 28), np.uint8), np.random.default_rng(0), 0.0)


def test_the_ink_of_a_shot_is_where_the_picture_differs_from_its_ground() -> None:
    for seed in range(10):
        shot = shoot(field_of(IMAGES[seed]), np.random.default_rng(seed), 0.0)
        assert shot.ink.shape == shot.picture.shape[:2]
        grey = cv2.cvtColor(shot.picture, cv2.COLOR_RGB2GRAY).astype(float)
        near = cv2.dilate(shot.ink, np.ones((15, 15), np.uint8)) > 0
        inside, outside = grey[shot.ink > 0.9].mean(), grey[near & (shot.ink == 0)].mean()
        assert abs(inside - outside) > 12


def test_a_shot_that_is_cut_out_keeps_its_digit_and_loses_its_paper_on_one_to_four_sides() -> None:
    whole = shoot(field_of(IMAGES[4]), np.random.default_rng(0), 0.2)
    x, y, w, h = cv2.boundingRect((whole.ink > 0.2).astype(np.uint8))
    height, width = whole.ink.shape
    assert min(x, y, width - x - w, height - y - h) > 0.13 * max(w, h), "the whole shot has paper around its digit"
    sides = []
    for seed in range(40):
        cut = cut_out(whole, np.random.default_rng(seed))
        assert cut.ink.shape == cut.picture.shape[:2]
        assert cut.ink.sum() > 0.7 * whole.ink.sum()
        assert likeness(reference(cut.ink)[None], reference(whole.ink))[0] > RECOGNISABLE
        rows, columns = np.flatnonzero((cut.ink > 0.2).any(1)), np.flatnonzero((cut.ink > 0.2).any(0))
        room = rows[0] / h, (len(cut.ink) - 1 - rows[-1]) / h, columns[0] / w, (cut.ink.shape[1] - 1 - columns[-1]) / w
        sides.append(sum(share < 0.13 for share in room))
    assert set(sides) == {1, 2, 3, 4}


def test_a_shot_of_nothing_is_not_cut() -> None:
    shot = Shot(np.full((40, 50, 3), 200, np.uint8), np.zeros((40, 50), np.float32))
    assert cut_out(shot, np.random.default_rng(0)) is shot


def test_some_of_the_photographs_to_learn_from_are_cut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    seen = imaging.interpret
    monkeypatch.setattr(
        imaging, "interpret", lambda picture, *more: shapes.append(picture.shape) or seen(picture, *more)
    )

    def mean_size() -> float:
        shapes.clear()
        make_photographs(IMAGES, LABELS, 60, seed=2, hardness=(0, 0.2), workers=1)
        return float(np.mean([height * width for height, width, _ in shapes]))

    assert 0 < CUT_OUT < 0.5
    usual = mean_size()
    monkeypatch.setattr("digits.photographer.CUT_OUT", 1.0)
    assert mean_size() < 0.8 * usual


def test_some_of_the_photographs_to_learn_from_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> np.ndarray:
        return make_photographs(IMAGES, LABELS, 40, seed=2, hardness=(0, 0.2), workers=1).digits.images

    monkeypatch.setattr("digits.photographer.KEEP_LOST", 1.0)
    marks = []
    monkeypatch.setattr(scenery, "mark", lambda *_: marks.append(1))
    usual = made()
    assert 0 < len(marks) < 20
    monkeypatch.setattr("digits.photographer.MARKED", 1.0)
    marks.clear()
    assert (made() != usual).any()
    assert len(marks) == 40


def test_harder_photographs_are_read_worse() -> None:
    def found(hardness: float) -> float:
        alike = []
        for seed in range(30):
            shot = shoot(field_of(IMAGES[seed % 30]), np.random.default_rng(seed), hardness)
            alike.append(likeness(imaging.interpret(shot.picture).images, reference(shot.ink)).max())
        return float(np.mean(np.array(alike) >= RECOGNISABLE))

    easy, hard = found(0.0), found(1.0)
    assert easy >= 0.9
    assert hard < easy - 0.05


def test_photographs_come_back_through_imaging_as_the_digits_they_were_made_of() -> None:
    made = make_photographs(IMAGES, LABELS, 40, seed=3, hardness=(0.0, 0.4)).digits
    templates = np.stack([digit(label, seed) for label in range(10) for seed in range(100, 120)])
    votes = [int(likeness(templates, image).argmax()) // 20 for image in made.images]
    assert np.mean(np.array(votes) == made.labels) > 0.5  # nearest template among ten classes: chance is 0.1


def test_what_imaging_offers_beside_a_digit_comes_with_it_and_shows_another_thing() -> None:
    made = make_photographs(IMAGES, LABELS, 60, seed=1, hardness=(0.6, 1.0))
    assert 3 <= len(made.beside) < 60
    assert made.beside.dtype == np.uint8
    assert made.beside.shape[1:] == (28, 28)
    assert made.beside.any(axis=(1, 2)).all()
    templates = np.stack([digit(label, seed) for label in range(10) for seed in range(100, 120)])
    nearest = lambda images: np.mean([likeness(templates, image).max() for image in images])  # noqa: E731
    assert nearest(made.beside) < nearest(made.digits.images) - 0.1


def test_a_training_set_has_the_shape_and_labels_it_promises() -> None:
    made = make_photographs(IMAGES, LABELS, 30, seed=1).digits
    assert made.images.shape == (30, 28, 28)
    assert made.images.dtype == np.uint8
    assert made.labels.dtype == np.int64
    assert set(made.labels.tolist()) <= set(range(10))
    assert len(set(made.labels.tolist())) > 6


def test_the_same_seed_makes_the_same_training_set_with_one_process_or_two(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = make_photographs(IMAGES, LABELS, 70, seed=5, hardness=(0, 0.3), workers=1)
    monkeypatch.setattr(workers, "_SMALL", 1)
    together = make_photographs(IMAGES, LABELS, 70, seed=5, hardness=(0, 0.3), workers=2)
    np.testing.assert_array_equal(alone.digits.images, together.digits.images)
    np.testing.assert_array_equal(alone.digits.labels, together.digits.labels)
    np.testing.assert_array_equal(alone.beside, together.beside)
    fewer = make_photographs(IMAGES, LABELS, 20, seed=5, hardness=(0, 0.3))
    np.testing.assert_array_equal(alone.digits.images[:20], fewer.digits.images)


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[int, int]] = []
    make_photographs(IMAGES, LABELS, 5, seed=0, progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 5) for i in range(1, 6)]


def test_only_labels_of_the_set_are_photographed_and_written() -> None:
    of_seven = LABELS == 7
    made = make_photographs(IMAGES[of_seven], LABELS[of_seven], 20, seed=2, hardness=(0, 0.2)).digits
    assert set(made.labels.tolist()) == {7}


def test_likeness_is_one_for_the_same_and_lower_for_another() -> None:
    same, moved, other = IMAGES[3], np.roll(IMAGES[3], 2, 1), IMAGES[0]
    alike = likeness(np.stack([same, moved, other, np.zeros_like(same)]), same)
    assert alike[0] == pytest.approx(1, abs=1e-4)
    assert alike[1] > 0.97
    assert alike[2] < 0.75
    assert alike[3] == 0


def test_bars_and_rings_read_as_digits_and_what_lies_or_has_corners_does_not() -> None:
    bar, lying, ring, frame, triangle, seven = (np.zeros((28, 28), np.uint8) for _ in range(6))
    bar[4:24, 12:15] = 255
    lying[12:15, 4:24] = 255
    cv2.ellipse(ring, (14, 14), (6, 9), 0, 0, 360, 255, 2)
    cv2.rectangle(frame, (6, 4), (21, 23), 255, 2)
    cv2.polylines(triangle, [np.array([[14, 4], [23, 22], [5, 22]])], True, 255, 2)
    cv2.polylines(seven, [np.array([[8, 5], [20, 5], [12, 23]])], False, 255, 2)
    images = (bar, ring, lying, frame, triangle, seven)
    assert [reads_as_bar_or_ring(image) for image in images] == [True, True, False, False, False, False]


def test_a_reference_is_framed_as_mnist_is() -> None:
    ink = np.zeros((300, 200), np.float32)
    ink[40:200, 90:110] = 1
    image = reference(ink)
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    assert len(rows) in (20, 21)
    assert (rows.mean(), columns.mean()) == (pytest.approx(13.5, abs=0.6), pytest.approx(13.5, abs=0.6))
    assert not reference(np.zeros((50, 50), np.float32)).any()


@pytest.mark.parametrize("label", range(10))
def test_every_way_to_write_a_digit_is_a_closed_set_of_strokes_inside_its_field(label: int) -> None:
    for seed, skeleton in enumerate(DIGITS[label] * 3):
        rng = np.random.default_rng(seed)
        field = field_of_strokes(strokes_of(skeleton, rng, 0.32), rng)
        left, top, width, height = field.box
        assert field.distance.shape == (handwriting.SIDE, handwriting.SIDE)
        assert max(width, height) == pytest.approx(100, abs=4)
        assert left >= 15
        assert top >= 15
    assert len(DIGITS[label]) >= 3


def test_thinning_leaves_a_line_of_one_pixel_that_hangs_together() -> None:
    mask = np.zeros((60, 60), np.uint8)
    cv2.line(mask, (10, 10), (50, 40), 1, 9)
    line = thin(mask)
    assert cv2.connectedComponents(line, connectivity=8)[0] == 2
    assert 25 < line.sum() < 60
    assert (line <= mask).all()


def test_a_ruled_page_has_more_edges_than_a_plain_one() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        page = scenery.sheet_of(120, 90, [0.9, 0.9, 0.9])
        u, v = scenery.page_coordinates(np.eye(3), 120, 90)
        scenery.rule(page, u, v, 50.0, 0.8, rng, 0.5)
        assert page.min() < 0.89
        assert (page > 0.85).mean() > 0.3


def test_a_table_leaves_the_digit_and_its_surroundings_alone() -> None:
    box, shown = (40.0, 50.0, 70.0, 95.0), 0
    for seed in range(20):
        page = scenery.sheet_of(160, 120, [0.9, 0.9, 0.9])
        u, v = scenery.page_coordinates(np.eye(3), 160, 120)
        scenery.table(page, u, v, box, np.random.default_rng(seed))
        table = (page < 0.89).any(0)
        assert not table[50:95, 40:70].any()
        assert page.min() >= 0
        shown += table.mean() > 0.05
    assert shown > 15


def test_a_frame_goes_around_the_digit_and_not_through_it() -> None:
    box, enclosed = (60.0, 50.0, 100.0, 110.0), 0
    for seed in range(30):
        page = scenery.sheet_of(160, 160, [0.9, 0.9, 0.9])
        u, v = scenery.page_coordinates(np.eye(3), 160, 160)
        scenery.frame(page, u, v, box, np.array([0.1, 0.1, 0.5], np.float32), np.random.default_rng(seed))
        line = (page < 0.85).any(0)
        assert line.any()
        assert line[50:110, 60:100].mean() < 0.12
        around = line[80, :60].any(), line[80, 100:].any(), line[:50, 80].any(), line[110:, 80].any()
        enclosed += sum(around) == 4
    assert enclosed > 8  # of the others a side lies outside the picture


def test_a_mark_is_beside_the_digit_and_not_on_it() -> None:
    box, places = (80.0, 70.0, 120.0, 130.0), {"around": 0, "below": 0, "beside": 0}
    for seed in range(60):
        page = scenery.sheet_of(200, 200, [0.9, 0.9, 0.9])
        u, v = scenery.page_coordinates(np.eye(3), 200, 200)
        scenery.mark(page, u, v, box, np.array([0.1, 0.1, 0.5], np.float32), 6.0, np.random.default_rng(seed))
        line = (page < 0.8).any(0)
        assert line.any()
        assert line[75:125, 85:115].mean() < 0.05
        above, below, left, right = line[:70].any(), line[130:].any(), line[:, :80].any(), line[:, 120:].any()
        places["around"] += above and below and left and right
        places["below"] += below and not above
        places["beside"] += (left or right) and not line[:, 90:110].any()
    assert all(count > 3 for count in places.values()), places


def test_a_marked_shot_has_the_mark_in_its_picture_and_not_in_its_ink() -> None:
    more = []
    for seed in range(12):
        shot = shoot(field_of(IMAGES[seed]), np.random.default_rng(seed), 0.0, marked=True)
        grey = cv2.GaussianBlur(cv2.cvtColor(shot.picture, cv2.COLOR_RGB2GRAY), (0, 0), 1).astype(float)
        away = np.abs(grey - np.median(grey)) > 40
        off = cv2.dilate(shot.ink, np.ones((9, 9), np.uint8)) == 0
        more.append((away & off).sum() > 0.1 * (shot.ink > 0.5).sum())
    assert np.mean(more) > 0.6


def test_where_the_pen_skips_there_is_less_ink_and_nowhere_more() -> None:
    field = write_digit(7, np.random.default_rng(14))
    away = field.distance > 20
    pen = pens.Pen(0.05, 1.0, np.zeros(3, np.float32), 0.0)
    depths = [pens.depth_of(field, pen, np.random.default_rng(seed), 1.0) for seed in range(60)]
    assert max(float(depth[away].max()) for depth in depths) < -5


def test_a_tilt_does_not_push_the_digit_out_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_rng: np.random.Generator, _hardness: float, height: int, _width: int) -> np.ndarray:
        return np.array([[1, 0, 0], [0, 1, height], [0, 0, 1.0]])

    monkeypatch.setattr("digits.photographer._pose", away)
    shots = [shoot(field_of(IMAGES[seed]), np.random.default_rng(seed), 0.3) for seed in range(8)]
    assert min(float(shot.ink.max()) for shot in shots) > 0.4


def test_a_camera_keeps_a_fine_pattern_of_red_better_than_one_of_blue() -> None:
    def left(plane: int) -> float:
        picture = scenery.sheet_of(64, 64, [0.5, 0.5, 0.5])
        picture[plane, :, ::2] = 0.2
        taken = [camera.take(picture.copy(), np.random.default_rng(seed), 0.5, 3.0) for seed in range(20)]
        return float(np.mean([np.abs(np.diff(seen[..., plane].astype(float), axis=1)).mean() for seen in taken]))

    assert left(0) > 1.2 * left(2)


def test_a_mirrored_lamp_takes_the_contrast_from_ink_but_not_all_of_it() -> None:
    def contrast(seed: int) -> np.ndarray:
        scene = scenery.sheet_of(60, 60, [0.9, 0.9, 0.9])
        scene[:, :, ::2] = 0.2
        camera.light(scene, np.random.default_rng(seed), 1.0)
        assert np.isfinite(scene).all()
        return np.asarray((scene[1, :, 1::2] - scene[1, :, ::2]) / scene[1, :, 1::2])

    least = [float(contrast(seed).min()) for seed in range(150)]
    assert 5 < sum(low < 0.5 for low in least) < 30  # without one it is 0.78 everywhere
    assert min(least) > 0.05


def test_page_coordinates_follow_the_homography() -> None:
    turn = np.array([[0.9, -0.1, 5], [0.1, 0.9, -3], [1e-4, 2e-4, 1]])
    u, v = scenery.page_coordinates(turn, 40, 30)
    expected = cv2.perspectiveTransform(np.array([[[7.0, 31.0]]]), turn)[0, 0]
    np.testing.assert_allclose([u[31, 7], v[31, 7]], expected, rtol=1e-4)
