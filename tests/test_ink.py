"""Ink found whatever the light, on its own."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from digits.ink import Page, noise_floor, quantile, scaled, trend


def sheet(ground: float = 220, ink: float = 60) -> np.ndarray:
    picture = np.full((160, 200), ground, np.float32)
    picture[40:120, 95:105] = ink
    return picture.astype(np.uint8)


def test_blank_paper_has_no_ink() -> None:
    ink = Page(np.full((100, 100, 3), 210, np.uint8)).ink(True, 0.14)
    assert float(ink.max()) < 2


def test_a_stroke_stands_out_by_its_contrast() -> None:
    ink = Page(sheet()).ink(True, 0.14)
    assert abs(float(ink[80, 100]) - 160) < 8
    assert float(ink[80, 30]) < 3


@pytest.mark.parametrize("low", [0.3, 0.6])
def test_a_slope_of_light_is_no_ink(low: float) -> None:
    light = np.linspace(1, low, 200)[None]
    ink = Page((sheet() * light).astype(np.uint8)).ink(True, 0.14)
    assert float(ink[:, :80].max()) < 8
    assert float(ink[80, 100]) > 60


def test_a_hard_shadow_is_no_ink_away_from_its_edge() -> None:
    picture = sheet()
    picture[:, 140:] = (picture[:, 140:] * 0.5).astype(np.uint8)
    ink = Page(picture).ink(True, 0.14)
    assert float(ink[:, 165:].max()) < 10
    assert float(ink[:, :85].max()) < 10


@pytest.mark.parametrize("slant", [0.0, 0.5])
def test_the_very_edge_of_a_hard_shadow_is_less_than_a_third_of_the_ink(slant: float) -> None:
    picture = sheet()
    edge = 150 + slant * (np.arange(160) - 80)
    shaded = np.arange(200)[None] > edge[:, None]
    picture = np.where(shaded, picture * 0.6, picture).astype(np.uint8)
    ink = Page(picture).ink(True, 0.14)
    beside = (np.abs(np.arange(200)[None] - edge[:, None]) < 12)[4:-4]
    assert float(np.quantile(ink[4:-4][beside], 0.99)) < float(ink[80, 100]) / 3


def test_light_ink_is_found_in_the_other_direction() -> None:
    page = Page(255 - sheet())
    assert float(page.ink(False, 0.14)[80, 100]) > 140
    assert float(page.ink(True, 0.14)[80, 30]) < 3


def test_coloured_ink_as_light_as_the_paper_is_found() -> None:
    lab = np.full((160, 200, 3), (190, 128, 128), np.uint8)
    lab[40:120, 95:105, 1] = 175
    ink = Page(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)).ink(True, 0.14)
    assert float(ink[80, 100]) > 3 * float(ink[:, :80].max()) + 3


@pytest.mark.parametrize(("picture", "dark"), [(sheet(), True), (255 - sheet(), False)])
def test_the_polarity_of_the_ink_is_seen(picture: np.ndarray, dark: bool) -> None:
    assert (Page(picture).darkness_of_ink() > 0.8) is dark
    assert (Page(picture).darkness_of_ink() < 0.2) is not dark


def test_hue_shows_coloured_ink_and_neither_shadow_nor_grey_print() -> None:
    picture = np.full((160, 200, 3), (225, 222, 210), np.float32)
    picture[40:120, 40:52] = (200, 70, 60)
    picture[40:120, 150:156] = (70, 69, 66)
    picture[:, 100:] *= 0.45
    picture[100:] *= 0.8
    tint = Page(picture.astype(np.uint8)).tint
    assert tint is not None
    assert float(tint[42:118, 43:49].min()) > 60
    assert float(tint[:, 60:].max()) < 12


@pytest.mark.parametrize("paper", [(225, 225, 225), (220, 180, 120), (40, 60, 50)])
def test_a_page_of_one_hue_has_no_map_of_hues(paper: tuple[int, int, int]) -> None:
    picture = np.full((160, 200, 3), paper, np.float32)
    picture[40:120, 95:105] *= 0.3
    assert Page(picture.astype(np.uint8)).tint is None
    assert Page(picture[..., 0].astype(np.uint8)).tint is None


def test_the_noise_floor_lies_above_grain_and_below_ink() -> None:
    grain = np.random.default_rng(0).normal(0, 4, (160, 200))
    ink = Page(np.clip(sheet() + grain, 0, 255).astype(np.uint8)).ink(True, 0.14)
    floor = noise_floor(ink)
    assert np.quantile(ink[:, :80], 0.99) < floor < 0.5 * float(np.median(ink[45:115, 97:103]))


def test_the_trend_follows_the_light_and_not_the_ink() -> None:
    light = np.linspace(240, 120, 200)[None].repeat(160, 0)
    with_ink = light.copy()
    with_ink[40:120, 95:115] = 20
    assert float(np.abs(trend(with_ink.astype(np.uint8)) - light).max()) < 15


def test_scaling_never_enlarges() -> None:
    assert scaled(sheet(), 1000).shape == (160, 200)
    assert max(scaled(sheet(), 50).shape) == 50


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (80, 63)])
@pytest.mark.parametrize("share", [0, 0.35, 0.5, 0.997, 1])
def test_a_quantile_is_the_percentile_that_numpy_gives(shape: tuple[int, int], share: float) -> None:
    values = np.random.default_rng(0).gamma(1, 20, shape).astype(np.float32)
    assert quantile(values, share) == pytest.approx(float(np.percentile(values, 100 * share)), rel=1e-5)
