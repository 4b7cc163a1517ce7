"""Things and scenes that hold nothing to read: of any contrast, none like another, and repeatable."""

from __future__ import annotations

import numpy as np

from digits.objects import SIDE, things


def test_things_are_grey_pictures_of_which_none_is_like_another_and_hardly_one_is_blank() -> None:
    made = [things(np.random.default_rng(seed)) for seed in range(40)]
    assert {(picture.dtype, picture.shape) for picture in made} == {(np.dtype(np.uint8), (SIDE, SIDE))}
    assert len({picture.tobytes() for picture in made}) == 40
    assert np.mean([picture.std() > 10 for picture in made]) > 0.9
    edges = [np.abs(np.diff(picture.astype(int), axis=0)).mean() for picture in made]
    assert max(edges) > 10 * min(edges), "from one smooth thing to a scene full of them"


def test_the_same_chance_makes_the_same_thing() -> None:
    np.testing.assert_array_equal(*(things(np.random.default_rng(5)) for _ in range(2)))
