"""Draws docs/images/{photographs,outliers,corruptions}.png: `python docs/make_data_pictures.py [folder with MNIST]`."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from digits import imaging
from digits.corruptions import CORRUPTIONS
from digits.data import load
from digits.outliers import HELD_OUT_KINDS, TRAINED_KINDS, make_outliers
from digits.photographer import photograph

IMAGES = Path(__file__).parent / "images"
TILE, LABEL = 84, 150


def fitted(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture, grey or RGB, in the middle of a grey square."""
    colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
    scale = side / max(colour.shape[:2])
    size = max(1, round(colour.shape[1] * scale)), max(1, round(colour.shape[0] * scale))
    small = cv2.resize(colour, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    tile = np.full((side, side, 3), 128, np.uint8)
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile


def save(rows: list[np.ndarray], labels: list[str], name: str) -> None:
    """Rows of one width under each other, a label before each, in 96 colours to stay small."""
    sheet = Image.new("RGB", (rows[0].shape[1] + LABEL, sum(len(row) for row in rows)), "white")
    draw, y = ImageDraw.Draw(sheet), 0
    for row, label in zip(rows, labels, strict=True):
        sheet.paste(Image.fromarray(row), (LABEL, y))
        draw.text((4, y + len(row) // 2 - 6), label, "black")
        y += len(row)
    IMAGES.mkdir(exist_ok=True)
    sheet.quantize(96, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)


def main() -> None:
    split = load("auto", Path(sys.argv[1] if len(sys.argv) > 1 else "data")).validation
    rows, labels = [], []
    for hardness in (0.0, 0.25, 0.5, 0.75, 1.0):
        shots = [photograph(split.images[i], np.random.default_rng([6, i]), hardness) for i in range(8)]
        rows.append(np.hstack([fitted(shot, TILE) for shot in shots]))
        seen = [np.pad(fitted(imaging.interpret(shot).images[0], 42), ((0, 0), (21, 21), (0, 0))) for shot in shots]
        rows.append(np.hstack(seen))
        labels += [f"hardness {hardness}", "as the model sees it"]
    save(rows, labels, "photographs.png")
    kinds = TRAINED_KINDS + HELD_OUT_KINDS
    made = [make_outliers(split.images, split.labels, 14, 0, kinds=(kind,))[0] for kind in kinds]
    names = [kind if kind in TRAINED_KINDS else f"{kind} (held out)" for kind in kinds]
    save([np.hstack([fitted(image, 42) for image in images]) for images in made], names, "outliers.png")
    rows = []
    for corrupt in CORRUPTIONS.values():
        spoilt = [corrupt(split.images[:3], severity, np.random.default_rng(0)) for severity in (1, 2, 3, 4, 5)]
        rows.append(np.hstack([fitted(image, 42) for images in spoilt for image in images]))
    save(rows, list(CORRUPTIONS), "corruptions.png")


if __name__ == "__main__":
    main()
