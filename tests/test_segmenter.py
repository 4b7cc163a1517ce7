"""The network that finds strokes: what goes into it, what is made of what comes out, and how it travels."""

from __future__ import annotations

import base64
import pickle

import cv2
import numpy as np
import pytest

from digits.classifier import Classifier, ModelError
from digits.imaging import LARGE, WORK_SIDE, interpret
from digits.segmenter import SIDE, Segmenter, reduced
from tests.models import DOUBT, tiny_model, tiny_segmenter
from tests.test_photographer import IMAGES


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(tiny_segmenter())


def page(height: int, width: int, *strokes: tuple[tuple[int, int], tuple[int, int]], pen: int = 6) -> np.ndarray:
    """Pale paper with straight dark strokes, each from one (x, y) to another: uint8 (h, w, 3)."""
    picture = np.full((height, width, 3), 220, np.uint8)
    for start, end in strokes:
        cv2.line(picture, start, end, (30, 30, 30), pen, cv2.LINE_AA)
    return picture


def seven(height: int, width: int, left: int, top: int, size: int) -> np.ndarray:
    corner = left + size // 2, top
    return page(height, width, ((left, top), corner), (corner, (left + size // 6, top + size)), pen=max(3, size // 12))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (96, 128)), (60, 30, (128, 64)), (1, 300, (1, 128)), (128, 128, (128,) * 2)],
)
def test_a_picture_keeps_its_sides_ratio_and_its_rim_is_repeated(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    square, size = reduced(picture)
    assert (square.dtype, square.shape, size) == (np.uint8, (3, SIDE, SIDE), expected)
    if size[0] < SIDE:
        np.testing.assert_array_equal(
            square[:, size[0] :], np.repeat(square[:, size[0] - 1 : size[0]], SIDE - size[0], 1)
        )
    if size[1] < SIDE:
        rim = square[:, :, size[1] - 1 : size[1]]
        np.testing.assert_array_equal(square[:, :, size[1] :], np.repeat(rim, SIDE - size[1], 2))


def test_grey_pictures_look_like_coloured_ones_without_colour() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (50, 70), np.uint8)
    np.testing.assert_array_equal(reduced(grey)[0], reduced(np.repeat(grey[..., None], 3, 2))[0])
    assert (reduced(grey)[0][1:] == 128).all()


def test_strokes_are_where_the_ink_is(segmenter: Segmenter) -> None:
    strokes, _ = segmenter.look(page(256, 192, ((40, 60), (150, 60))))
    assert strokes.shape == (128, 96)
    assert strokes[30, 30:70].min() > 0.5
    assert strokes[45:].max() < 0.5


@pytest.mark.parametrize("size", [300, 120, 40])
def test_a_digit_comes_out_as_mnist_has_it_however_small_it_is(segmenter: Segmenter, size: int) -> None:
    image, present = segmenter.digit(seven(400, 400, 60, 50, size))
    assert image is not None
    assert present == pytest.approx(DOUBT, abs=0.01)
    assert (image.dtype, image.shape) == (np.uint8, (28, 28))
    _, _, width, height = cv2.boundingRect((image > 80).astype(np.uint8))
    assert 18 <= max(width, height) <= 21
    alone = interpret(seven(400, 400, 60, 50, 300)).images[0]
    assert np.corrcoef(image.ravel(), alone.ravel())[0, 1] > 0.8


def test_what_is_small_is_looked_at_twice_and_what_is_large_once(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[tuple[int, ...]] = []
    look = Segmenter.look
    monkeypatch.setattr(Segmenter, "look", lambda self, picture: looked.append(picture.shape) or look(self, picture))
    segmenter.digit(seven(400, 400, 60, 50, 300))
    assert looked == [(400, 400, 3)]
    segmenter.digit(seven(400, 400, 300, 310, 60))
    assert looked[1] == (400, 400, 3)
    assert max(looked[2]) < 130


def test_the_first_look_at_a_large_picture_is_at_what_imaging_has_reduced_already(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    look = Segmenter.look
    monkeypatch.setattr(
        Segmenter, "look", lambda self, picture: looked.append(max(picture.shape)) or look(self, picture)
    )
    large = seven(LARGE + 200, LARGE, 100, 100, 200)
    few = interpret(large, segmenter).images
    assert looked[0] == WORK_SIDE
    assert looked[1] > 200, "and the closer one at the original"
    looked.clear()
    interpret(large[:LARGE], segmenter)
    assert looked[0] == LARGE
    closest = max(np.corrcoef(image.ravel(), few[0].ravel())[0, 1] for image in segmenter.digit(large)[:1])
    assert closest > 0.9


def test_specks_are_no_digit_and_do_not_belong_to_one(segmenter: Segmenter) -> None:
    assert segmenter.digit(page(200, 200))[0] is None
    assert segmenter.digit(page(200, 200, ((50, 50), (51, 50)), pen=1))[0] is None
    clean = seven(400, 400, 60, 50, 300)
    dirty = clean.copy()
    dirty[380:390, 380:390] = 30
    np.testing.assert_array_equal(segmenter.digit(dirty)[0], segmenter.digit(clean)[0])


def test_imaging_offers_what_the_segmenter_sees_unless_it_has_it_already(segmenter: Segmenter) -> None:
    plain = seven(300, 300, 60, 50, 180)
    assert len(interpret(plain, segmenter).images) == len(interpret(plain).images) == 1

    class Another(Segmenter):
        def digit(self, *_: object) -> tuple[np.ndarray, float]:
            return np.full((28, 28), 90, np.uint8), 0.625

    more = interpret(plain, Another(tiny_segmenter()))
    assert (len(more.images), more.seen) == (2, 1)
    assert more.apart == (pytest.approx(np.abs(more.images[0] / 255 - 90 / 255).mean()), 0)
    np.testing.assert_array_equal(more.images[0], interpret(plain).images[0])
    assert (more.images[1] == 90).all()
    assert (interpret(plain).present, more.present) == (1, 0.625)


def test_a_reading_tells_when_one_looked_and_saw_nothing(segmenter: Segmenter) -> None:
    plain = seven(300, 300, 60, 50, 180)

    class Nothing(Segmenter):
        def digit(self, *_: object) -> tuple[None, float]:
            return None, 0.25

    blind = interpret(plain, Nothing(tiny_segmenter()))
    assert (blind.unseen, blind.apart, blind.present) == (True, (), 0.25)
    assert not interpret(seven(300, 300, 60, 50, 90), Nothing(tiny_segmenter())).unseen, "a small one may be overlooked"
    assert not interpret(plain).unseen
    assert not interpret(plain, segmenter).unseen


def test_a_small_digit_is_there_if_it_is_seen_from_closer(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([0.02, 0.9, 0.7])
    look = Segmenter.look
    monkeypatch.setattr(Segmenter, "look", lambda self, picture: (look(self, picture)[0], next(answers)))
    assert segmenter.digit(seven(600, 600, 250, 250, 100))[1] == 0.9
    assert segmenter.digit(seven(300, 300, 60, 50, 180))[1] == 0.7, "a large one is looked at once"


def test_a_reading_tells_which_candidate_the_segmenter_sees(segmenter: Segmenter) -> None:
    beside = np.hstack((seven(300, 150, 20, 50, 180), np.full((300, 250, 3), 235, np.uint8)))
    cv2.line(beside, (330, 40), (330, 260), (60, 60, 60), 14)
    offered = interpret(beside).images
    assert len(offered) > 1

    class Last(Segmenter):
        def digit(self, *_: object) -> tuple[np.ndarray, float]:
            return offered[-1], 1.0

    reading = interpret(beside, Last(tiny_segmenter()))
    assert reading.seen == len(reading.images) - 1 == len(offered) - 1
    assert reading.apart[-1] == 0 < min(reading.apart[:-1])
    assert (interpret(beside).seen, interpret(beside).apart) == (0, ())


def test_a_photograph_of_few_pixels_reaches_it(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []
    monkeypatch.setattr(Segmenter, "digit", lambda *_: (reached.append(1), 0.5))
    small = cv2.resize(seven(300, 300, 60, 50, 180), (36, 36), interpolation=cv2.INTER_AREA)
    small = np.clip(small + np.random.default_rng(0).normal(0, 4, small.shape), 0, 255).astype(np.uint8)
    assert interpret(small, segmenter).present == 0.5
    assert reached


def test_mnist_images_and_blank_pages_never_reach_it(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    def digit(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Segmenter, "digit", digit)
    rng = np.random.default_rng(0)
    faint = np.clip(rng.normal(200, 1.2, (300, 300)), 0, 255).astype(np.uint8)
    assert int(np.ptp(faint)) >= 4
    assert interpret(faint).blank, "found blank by looking, not for having one grey only"
    enlarged = cv2.resize(IMAGES[3], (280, 280), interpolation=cv2.INTER_CUBIC)
    for picture in (rng.integers(0, 256, (28, 28), np.uint8), page(300, 300), faint, enlarged):
        interpret(picture, segmenter)


def test_it_travels_in_the_model_file_and_to_other_processes(segmenter: Segmenter) -> None:
    assert Classifier(tiny_model()).segmenter is None
    carried = Classifier(tiny_model(segmenter=base64.b64encode(tiny_segmenter()).decode()))
    assert "segmenter" not in carried.metadata
    picture = seven(300, 300, 60, 50, 180)
    for other in (carried.segmenter, pickle.loads(pickle.dumps(segmenter))):
        assert other is not None
        assert other.sha256 == segmenter.sha256
        np.testing.assert_array_equal(other.look(picture)[0], segmenter.look(picture)[0])


@pytest.mark.parametrize(
    "text", ["no base64!", base64.b64encode(b"no model").decode(), base64.b64encode(tiny_segmenter(64)).decode()]
)
def test_a_model_with_a_segmenter_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="in the metadata of model"):
        Classifier(tiny_model(segmenter=text))
