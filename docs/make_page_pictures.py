"""Pictures of the service's page, for the README and docs/: `python -m docs.make_page_pictures ADDRESS [MNIST]`.

ADDRESS is that of a running service whose model is the one to be shown, as http://localhost:3000. A 3 is drawn with the
mouse, light and dark, on a desk and on a phone, and fourteen files are handed in, made of the digits in the folder
MNIST. Writes docs/images/page-*.webp; look at them.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Browser, Page, sync_playwright
from scipy.interpolate import splev, splprep

from digits.data import load
from digits.photographer import photograph
from docs.make_mlflow_pictures import CHROMIUM, FLAGS, IMAGES

DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 780}, "device_scale_factor": 1.25}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
THREE = [
    (0.31, 0.25),
    (0.39, 0.17),
    (0.49, 0.145),
    (0.6, 0.17),
    (0.655, 0.26),
    (0.63, 0.37),
    (0.55, 0.44),
    (0.45, 0.455),
]
THREE += [
    (0.55, 0.47),
    (0.65, 0.53),
    (0.7, 0.63),
    (0.67, 0.74),
    (0.58, 0.82),
    (0.47, 0.845),
    (0.37, 0.82),
    (0.28, 0.735),
]
SETTLED = 1_500  # milliseconds until the pen has circled the answer


def draw(page: Page) -> None:
    """One stroke with the mouse."""
    box = page.locator("#surface").bounding_box()
    assert box is not None
    curve = splprep(np.array(THREE).T, s=0)[0]
    for place, (x, y) in enumerate(np.array(splev(np.linspace(0, 1, 80), curve)).T):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if not place:
            page.mouse.down()
    page.mouse.up()


def files(root: Path) -> list[dict[str, Any]]:
    """Twelve synthetic photographs of validation digits, a word, and a file that is no picture."""
    digits = load("auto", root).validation
    handed = []
    for number in range(12):
        taken = photograph(digits.images[number], np.random.default_rng([8, number]), number / 12)
        buffer = io.BytesIO()
        Image.fromarray(taken).save(buffer, "JPEG", quality=90)
        handed.append({"name": f"page_{number + 1:02}.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()})
    word, buffer = Image.new("RGB", (400, 400), "#cccabf"), io.BytesIO()
    ImageDraw.Draw(word).text((20, 130), "hello", "#332d4a", ImageFont.load_default(size=120))
    word.save(buffer, "JPEG")
    handed.append({"name": "hello.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()})
    return [*handed, {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}]


def take(browser: Browser, address: str, name: str, handed: list[dict[str, Any]], **options: Any) -> None:
    """One picture; of the files where there are any, of a drawing where not."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(f"{address}/ui/", wait_until="networkidle")
    if handed:
        page.locator("#files").set_input_files(handed)  # type: ignore[arg-type]
        page.get_by_text(f"{len(handed)} read").wait_for()
        page.locator(".card").first.click()
    else:
        for _ in range(2):  # the second time everything is warm, as it is for whoever uses the page
            if page.locator("#clear").is_enabled():
                page.locator("#clear").click()
            draw(page)
            page.locator("#answer[data-state=accepted]").wait_for()
    page.wait_for_timeout(SETTLED)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=bool(handed))))
    picture.save(IMAGES / f"page-{name}.webp", quality=85, method=6)
    print(f"page-{name}.webp  {picture.width}×{picture.height}", flush=True)
    context.close()


def main() -> None:
    address, root = sys.argv[1].rstrip("/"), Path(sys.argv[2] if len(sys.argv) > 2 else "data")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for size, options in (("desktop", DESK), ("phone", PHONE)):
            for colours in ("light", "dark"):
                take(browser, address, f"{size}-{colours}", [], color_scheme=colours, **options)
        take(browser, address, "gallery", files(root), color_scheme="light", **DESK)
        browser.close()


if __name__ == "__main__":
    main()
