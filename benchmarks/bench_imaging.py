"""How long imaging takes for pictures as they arrive, on one core: `python -m benchmarks.bench_imaging [runs [model]]`.

Prints one row for each kind of picture: the number of runs, the median and the 10th to 90th percentile of processor
time, in milliseconds, for decoding, for everything by rules and, where a model.onnx is named, with its segmenter.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from digits.classifier import Classifier
from digits.imaging import decode, read


def page(height: int, width: int, ruled: bool = False) -> np.ndarray:
    """A 3 on noisy, unevenly lit paper, uint8 (h, w, 3)."""
    rng = np.random.default_rng(0)
    picture = np.full((height, width, 3), 225, np.uint8)
    if ruled:
        for row in range(height // 16, height, height // 8):
            cv2.line(picture, (0, row), (width - 1, row + width // 60), (160, 175, 215), max(1, height // 200))
    size, pen = height // 7, max(1, height // 60)
    for middle in (0.36, 0.62):
        centre = width // 2, round(height * middle)
        cv2.ellipse(picture, centre, (size, round(size * 0.93)), 0, -130, 100, (50, 50, 120), pen, cv2.LINE_AA)
    light = np.linspace(1, 0.6, width, dtype=np.float32)[None, :, None]
    grain = cv2.resize(rng.normal(0, 4, (max(height // 2, 1), max(width // 2, 1))).astype(np.float32), (width, height))
    return np.clip(picture * light + grain[..., None], 0, 255).astype(np.uint8)


def encoded(picture: np.ndarray, kind: str) -> bytes:
    stream = BytesIO()
    Image.fromarray(picture).save(stream, kind, **({"quality": 88} if kind == "JPEG" else {}))
    return stream.getvalue()


def thumbnail() -> np.ndarray:
    small = cv2.resize(255 - page(400, 400)[..., 0], (20, 20), interpolation=cv2.INTER_AREA)
    small = np.where(small > 90, small, 0).astype(np.uint8)
    return cv2.copyMakeBorder(small, 4, 4, 4, 4, cv2.BORDER_CONSTANT)


CASES: dict[str, Callable[[], bytes]] = {
    "28 × 28 PNG": lambda: encoded(thumbnail(), "PNG"),
    "280 × 280 PNG": lambda: encoded(cv2.resize(thumbnail(), (280, 280), interpolation=cv2.INTER_CUBIC), "PNG"),
    "640 × 480 JPEG": lambda: encoded(page(480, 640), "JPEG"),
    "640 × 480 JPEG, lined": lambda: encoded(page(480, 640, ruled=True), "JPEG"),
    "1280 × 960 JPEG": lambda: encoded(page(960, 1280), "JPEG"),
    "12-megapixel JPEG": lambda: encoded(page(3000, 4000), "JPEG"),
    "12-megapixel JPEG, lined": lambda: encoded(page(3000, 4000, ruled=True), "JPEG"),
}


def milliseconds(work: Callable[[], object], runs: int) -> np.ndarray:
    work()
    taken = []
    for _ in range(runs):
        start = time.thread_time_ns()
        work()
        taken.append((time.thread_time_ns() - start) / 1e6)
    return np.array(taken)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    print(f"{platform.machine()}, OpenCV {cv2.__version__}, one thread; processor time in ms: median (10th to 90th)")
    works: dict[str, Callable[[bytes], object]] = {"decode": decode, "decode and interpret": read}
    if len(sys.argv) > 2:
        works["with the segmenter"] = partial(read, segmenter=Classifier(Path(sys.argv[2])).segmenter)
    print(f"| picture | bytes | n | {' | '.join(works)} |\n|---|---|---|{'---|' * len(works)}")
    for name, make in CASES.items():
        data = make()
        count = max(5, runs // 5) if len(data) > 500_000 else runs
        cells = []
        for work in works.values():
            low, middle, high = np.percentile(milliseconds(partial(work, data), count), (10, 50, 90))
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        print(f"| {name} | {len(data):,} | {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
