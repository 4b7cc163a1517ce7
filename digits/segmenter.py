"""A photograph comes in; the strokes of its digit, as a small network sees them, go out.

digits.ink and digits.shapes know pens, shadows and rulings by rules. The network has learnt them from photographs whose
strokes are known (digits.pyramid), and sees what rules miss: a digit under a shadow's edge, on squares, beside writing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from digits.ink import Bytes, Floats
from digits.runtime import session_of
from digits.thumbnails import fit, stroke_of

OUTPUTS = ("strokes", "present")  # the first segmenters gave strokes alone
SIDE = 128  # the network looks at squares of this size
CLOSER = 0.47  # a digit that takes less of the picture is looked at again, alone
ROUND = 1.7  # how far around it, in its own size
SURE = 0.5
SPECK = 0.08  # a part smaller than this share of the largest is none


def reduced(picture: Bytes) -> tuple[Bytes, tuple[int, int]]:
    """What the network looks at: uint8 (3, SIDE, SIDE), the picture's Y, Cr and Cb with its long side reduced to SIDE
    and its last row and column repeated; and how much of that, height and width, is the picture."""
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8
    )
    parts = cv2.cvtColor(small if small.ndim == 3 else cv2.cvtColor(small, cv2.COLOR_GRAY2RGB), cv2.COLOR_RGB2YCrCb)
    below, beside = SIDE - size[1], SIDE - size[0]
    square = cv2.copyMakeBorder(parts, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(square.transpose(2, 0, 1)), (size[1], size[0])


class Segmenter:
    """A network that tells the digit's strokes from all else. Thread-safe, and can be sent to another process.

    `model` is what `digits.pyramid.to_onnx` gives. Raises ValueError where it is none.
    """

    def __init__(self, model: bytes) -> None:
        self._model = model
        self.sha256 = hashlib.sha256(model).hexdigest()
        try:
            self._session = session_of(model)
            known = {output.name for output in self._session.get_outputs()}
            self._outputs = [name for name in OUTPUTS if name in known]
            found, present = self.found(np.zeros((1, 3, SIDE, SIDE), np.uint8))
            shapes = found.shape, present.shape
            numbers = bool(np.isfinite(found).all() and (present >= 0).all() and (present <= 1).all())
            usable = shapes == ((1, SIDE, SIDE), (1,)) and numbers
        except Exception as error:  # ONNX Runtime raises a dozen types of its own
            raise ValueError(f"the segmenter can't be used: {' '.join(str(error).split())[:200]}") from error
        if not usable:
            raise ValueError(f"the segmenter gives {shapes}, expected numbers of (1, {SIDE}, {SIDE}) and (1,), 0 to 1")

    def __reduce__(self) -> tuple[type[Segmenter], tuple[bytes]]:
        return Segmenter, (self._model,)

    def found(self, squares: Bytes) -> tuple[Floats, Floats]:
        """What the network says of pictures as `reduced` gives them, uint8 (n, 3, SIDE, SIDE): how likely each pixel is
        the digit's, (n, SIDE, SIDE), and how likely there is one, (n,)."""
        strokes: NDArray[np.float32]
        strokes, *present = self._session.run(self._outputs, {"pictures": squares})
        return strokes, present[0] if present else np.ones(len(squares), np.float32)

    def look(self, picture: Bytes) -> tuple[Floats, float]:
        """How likely each pixel is the digit's, float32 (h, w), 0..1, of the picture with its long side SIDE; and how
        likely there is one.

        `picture` is uint8 (height, width) grey or (height, width, 3) RGB.
        """
        square, (height, width) = reduced(picture)
        strokes, present = self.found(square[None])
        return strokes[0, :height, :width], float(present[0])

    def digit(self, picture: Bytes, smaller: Bytes | None = None) -> tuple[Bytes | None, float]:
        """The digit of a picture as MNIST would have it, uint8 (28, 28), or None where there are no strokes; and how
        likely there is one.

        `smaller` is the same picture, reduced: enough for a first look, and quicker to reduce again.
        """
        strokes, present = self.look(picture if smaller is None else smaller)
        found = _main(strokes)
        if found is not None and found.size < CLOSER * SIDE:
            scale = max(picture.shape[:2]) / max(strokes.shape)
            strokes, closer = self.look(_around(found.box, scale, picture))
            found, present = _main(strokes) or found, max(present, closer)  # a small one is hardly seen from afar
        return found.digit() if found else None, present


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Strokes that belong together: on which map, (h, w), where on it, (h, w), and left, top, width, height."""

    strokes: Floats
    mask: Bytes
    box: tuple[int, int, int, int]

    @property
    def size(self) -> int:
        return max(self.box[2:])

    def digit(self) -> Bytes | None:
        """As MNIST would have them, uint8 (28, 28); None where nothing is left of them."""
        x, y, w, h = self.box
        margin = 3
        part = slice(max(0, y - margin), y + h + margin), slice(max(0, x - margin), x + w + margin)
        ink = self.strokes[part] * cv2.dilate(self.mask[part], np.ones((3, 3), np.uint8))
        image = fit(np.asarray(ink, np.float32), stroke_of((ink > SURE).astype(np.uint8)))
        return image if image.any() else None


def _around(box: tuple[int, int, int, int], scale: float, picture: Bytes) -> Bytes:
    """The part of a picture around a box of a map that is smaller by `scale`."""
    x, y, w, h = box
    reach = max(ROUND * max(w, h) * scale, 24.0) / 2
    middle = (y + h / 2) * scale, (x + w / 2) * scale
    rows, columns = (slice(max(0, int(at - reach)), int(at + reach) + 1) for at in middle)
    return picture[rows, columns]


def _main(strokes: Floats) -> _Found | None:
    """The strokes of a map that are more than specks."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((strokes > SURE).astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return None
    kept = np.concatenate(([False], areas > max(6, SPECK * areas.max())))
    mask = kept[labels].astype(np.uint8)
    if not mask.any():
        return None
    x, y, w, h = cv2.boundingRect(mask)
    return _Found(strokes, mask, (x, y, w, h))
