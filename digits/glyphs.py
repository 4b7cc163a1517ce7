"""Characters that are not digits, drawn from the fonts that Matplotlib carries: a set of characters goes in, a grey
picture of one or several comes out.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from digits.ink import Bytes

_LATIN = (
    "DejaVuSans DejaVuSans-Oblique DejaVuSans-Bold DejaVuSansMono DejaVuSerif DejaVuSerif-Italic "
    "STIXGeneral STIXGeneralItalic STIXGeneralBolIta cmr10 cmss10 cmtt10"
)
LATIN_FONTS = tuple(f"{name}.ttf" for name in _LATIN.split())
WIDE_FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf")

# What a person may take for a digit is left out: round things (0), bars (1), and the letters that share a digit's
# shape in some hand or face.
LATIN = "ACEFHJKLMNPRTUVWXYacdefhjkmnprtuvwxy"
GREEK = "ΓΔΕΗΚΛΜΝΞΠΡΣΤΥΦΧΨΩαγεηκλμνπτυφχψω"
CYRILLIC = "ДЖИЙЛЦШЩЮЯджийлцшщюя"  # none that a Latin or Greek letter above looks like, in either case
HEBREW_ARABIC = "אגהחטכלמנעפצקשתبتثجحخدذرزسشصضطظعغفقكلنيئ"
_ARROWS, _MATHEMATICS, _SIGNS, _DINGBATS = (0x2190, 0x21FF), (0x2200, 0x22FF), (0x2600, 0x26B8), (0x2701, 0x2775)
_SYMBOL_RANGES = (_ARROWS, _MATHEMATICS, _SIGNS, _DINGBATS, (0x2794, 0x27BE), (0x2580, 0x259F))
_SYMBOLS_LIKE_DIGITS = (
    "∂∅∕∖∘∙∝∞∣∤∥∫∮∶∼≀⊂⊃⋮⋰⋱⊙⊚⊖⊘⊝❍❘❙❚❛❜❝❞☉☰♁⚆⚇⚈⚉⚪⚫⚬☎❢❡❶⌀↑↓↕⇂⇃↾↿⇵⇅⇡⇣⇧⇩⇳↥↧↨↯ↆ↺↻⟲⟳✆ϟ∃ℇ∍∋⊍⊎∪∩♃☡♭↴☌❨❩❪❫❬❭❲❳"
)


def _path(font: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / font


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(name), size)


@cache
def symbols() -> str:
    """Arrows, mathematics, signs, dingbats, blocks and punctuation that DejaVu Sans holds, but for those that look
    like a digit.
    """
    held = FT2Font(str(_path("DejaVuSans.ttf"))).get_charmap()
    wanted = [chr(code) for low, high in _SYMBOL_RANGES for code in range(low, high + 1) if code in held]
    return "".join(c for c in wanted if c not in _SYMBOLS_LIKE_DIGITS) + '#%*+<=>@^~"€£¥¶§?&' * 4


def draw_text(text: str, font: str, size: int = 96) -> Bytes:
    """Text in a font, light on black, cropped to its ink and padded to a square; uint8 (s, s).

    Raises ValueError where nothing is drawn.
    """
    face = _font(font, size)
    left, top, right, bottom = face.getbbox(text)
    side = int(max(right - left, bottom - top, 8)) + 16
    canvas = Image.new("L", (side, side))
    ImageDraw.Draw(canvas).text(((side - left - right) / 2, (side - top - bottom) / 2), text, 255, face)
    if canvas.getbbox() is None:
        raise ValueError(f"the font {font} draws nothing for {text!r}: choose a character that it holds")
    return np.asarray(canvas)


def any_of(characters: str, fonts: tuple[str, ...], rng: np.random.Generator) -> Bytes:
    """One character in one font, both by chance."""
    return draw_text(characters[rng.integers(len(characters))], fonts[rng.integers(len(fonts))])


def word(rng: np.random.Generator) -> Bytes:
    """Two to seven letters in a row, or two rows, in small or capital letters.

    Of the unmistakable letters only, since imaging may pick a single one of them.
    """

    def row() -> str:
        capitals = rng.random() < 0.3
        letters = [c for c in LATIN if c.isupper() == capitals]
        return "".join(letters[i] for i in rng.integers(len(letters), size=rng.integers(2, 8)))

    text = row() if rng.random() < 0.8 else row() + "\n" + row()
    face = LATIN_FONTS[rng.integers(len(LATIN_FONTS))]
    if "\n" not in text:
        return draw_text(text, face, 48)
    parts = [draw_text(part, face, 48) for part in text.split("\n")]
    wide = max(p.shape[1] for p in parts)
    rows = [p[p.any(1)] for p in parts]
    canvas = np.zeros((max(wide, sum(len(r) for r in rows) + 24), wide), np.uint8)
    y = 4
    for r in rows:
        canvas[y : y + len(r), : r.shape[1]] = r
        y += len(r) + 12
    side = max(canvas.shape)
    square = np.zeros((side, side), np.uint8)
    square[: canvas.shape[0], : canvas.shape[1]] = canvas
    return square
