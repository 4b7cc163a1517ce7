"""The page at /ui/ as a person uses it: a real Chromium and the real service, driven by pointer, keys and files."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from digits.data import load
from digits.export import to_onnx
from digits.fit import Recipe, TrainingSet, fit
from tests.models import tiny_model
from tests.serving import Server, store

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
expect, Page, Browser, Route = sync_api.expect, sync_api.Page, sync_api.Browser, sync_api.Route

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--use-fake-device-for-media-stream"]
expect.set_options(timeout=60_000)  # a loaded machine is slow, which is no failure
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
THREE = [(0.3, 0.22), (0.45, 0.14), (0.62, 0.17), (0.68, 0.28), (0.6, 0.42), (0.46, 0.47)]
THREE += [(0.62, 0.52), (0.7, 0.66), (0.62, 0.8), (0.45, 0.86), (0.29, 0.78)]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


# ── The service and the browser ──────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def serving(model: bytes, home: Path, **settings: str) -> Iterator[str]:
    """The real service with a BentoML store of its own that holds this model.onnx; the page's address."""
    store(home, model, "7")
    with Server(home, **settings) as server:
        yield f"http://127.0.0.1:{server.port}/ui/"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    with serving(tiny_model(threshold=0.05), folder) as address:
        yield address


@pytest.fixture(scope="module")
def trained_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service whose model has learnt from a part of MNIST for a minute: it reads clear digits."""
    root = os.environ.get("MNIST_ROOT")
    if not root:
        pytest.skip("MNIST_ROOT is not set: no MNIST here to learn from")
    data = load("mnist", Path(root), limit=12_000)
    recipe = Recipe(batch_size=128, disturbed=0.2, photographs=0.0, outliers=0.0)
    net = fit(recipe, TrainingSet(data.train), data.validation, epochs=1, seed=0, device="cpu")
    with serving(to_onnx(net, 1.0, {"threshold": "0.3"}), tmp_path_factory.mktemp("trained")) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page with what it said and asked, and hands to use it."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context = browser.new_context(viewport=DESKTOP, accept_downloads=True, **options)
        self.context.set_default_timeout(60_000)
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[Any] = []
        # Playwright doesn't give out bodies that are blobs: the page's own requests are kept as they pass.
        self.context.add_init_script(
            """{ const real = fetch; globalThis.sent = [];
                 globalThis.fetch = (url, init) => { sent.push(init?.body); return real(url, init); }; }"""
        )
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"exception: {error}"))
        self.page.on("request", lambda request: self.requests.append(request))

    def draw(self, points: list[tuple[float, float]], lift: bool = True) -> None:
        """One stroke with the mouse, in parts of the sheet's side."""
        box = self.page.locator("#surface").bounding_box()
        assert box
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=3)
        if lift:
            self.page.mouse.up()

    def drop(self, *files: tuple[str, str, bytes]) -> None:
        """Drops files (name, type, content) on the page."""
        self.hand_over("drop", files)

    def paste(self, *files: tuple[str, str, bytes]) -> None:
        self.hand_over("paste", files)

    def hand_over(self, event: str, files: tuple[tuple[str, str, bytes], ...]) -> None:
        packed = [[name, kind, base64.b64encode(content).decode()] for name, kind, content in files]
        self.page.evaluate(
            """([event, files]) => {
                const data = new DataTransfer();
                for (const [name, type, base64] of files)
                    data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name, { type }));
                const options = { bubbles: true, cancelable: true };
                document.body.dispatchEvent(event === "drop"
                    ? new DragEvent("drop", { ...options, dataTransfer: data })
                    : new ClipboardEvent("paste", { ...options, clipboardData: data }));
            }""",
            [event, packed],
        )

    def asked(self, path: str) -> list[Any]:
        return [request for request in self.requests if f"/{path}?" in request.url]

    @contextmanager
    def unanswered(self) -> Iterator[None]:
        """Within it no picture is answered; at its end all that wait for an answer are let through."""
        waiting: list[Route] = []
        closed = True
        self.page.route("**/predict?*", lambda route: waiting.append(route) if closed else route.continue_())
        yield
        closed = False  # for a request that is still on its way to the lines above
        for route in waiting:
            route.continue_()

    def answered(self) -> None:
        """Waits for an answer on the screen to what is on the sheet now."""
        answer = self.page.locator("#answer")
        expect(answer).to_have_attribute("data-state", re.compile("accepted|refused"))
        expect(answer).to_have_attribute("aria-busy", "false")

    @property
    def sent(self) -> bytes:
        """The picture that was sent last."""
        content = self.page.evaluate(
            """async () => { const picture = sent.findLast((body) => body instanceof Blob);
                const bytes = new Uint8Array(await picture.arrayBuffer());
                return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")); }"""
        )
        return base64.b64decode(content)

    @property
    def drawn(self) -> Image.Image:
        return Image.open(io.BytesIO(self.sent)).convert("L")

    @property
    def digit(self) -> int:
        """The digit on the screen: the one whose bar is marked."""
        return int(self.page.locator("#bars .best .digit").inner_text())


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Visit]:
    """The page just opened; at the end it must have had nothing to complain about."""
    visit = Visit(browser)
    visit.page.goto(url)
    yield visit
    visit.context.close()
    assert [line for line in visit.said if line.startswith("exception")] == []


def picture(seed: int = 3, kind: str = "JPEG") -> bytes:
    """A picture of a digit-like curve: dark pencil on grey paper."""
    image = Image.new("RGB", (420, 560), (186, 184, 176))
    points = [(60 + x * 300, 60 + y * 400 + 7 * seed * (x - 0.5)) for x, y in THREE]
    ImageDraw.Draw(image).line(points, fill=(52, 50, 58), width=22, joint="curve")
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def ask(url: str, content: bytes, kind: str) -> dict[str, Any]:
    """What the API itself answers."""
    address = url.removesuffix("ui/") + "predict?explain=1"
    request = urllib.request.Request(address, content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        with error:
            return dict(json.load(error))


# ── Drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_comes_from_the_service_alone_under_a_strict_policy_and_complains_of_nothing(
    visit: Visit, url: str
) -> None:
    visit.draw(THREE)
    visit.answered()
    hosts = {request.url.split("/")[2] for request in visit.requests if not request.url.startswith(("data:", "blob:"))}
    assert hosts == {url.split("/")[2]}
    policy = visit.page.request.get(url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert visit.said == []


def test_the_page_of_the_api_reaches_no_other_host_and_can_not_be_framed(visit: Visit, url: str) -> None:
    visit.requests.clear()
    visit.page.goto(url.removesuffix("ui/") + "docs")
    expect(visit.page.locator(".opblock")).not_to_have_count(0)
    foreign = [request for request in visit.requests if not request.url.startswith((url.removesuffix("ui/"), "data:"))]
    assert {request.failure for request in foreign} <= {"csp"}
    assert "frame-ancestors 'none'" in visit.page.request.get(visit.page.url).headers["content-security-policy"]


def test_what_is_drawn_is_answered_as_the_api_answers_it(visit: Visit, url: str) -> None:
    visit.draw(THREE)
    visit.answered()
    sent, drawn = visit.sent, visit.drawn
    assert drawn.getextrema() == (0, 255)
    assert drawn.getpixel((0, 0)) == 255, "black ink on white paper, whatever the colours of the page"
    answer = ask(url, sent, "image/png")
    assert visit.digit == answer["digit"]
    widest = max(range(10), key=lambda digit: answer["probabilities"][digit])
    heights = visit.page.eval_on_selector_all("#bars .bar", "bars => bars.map(b => +b.style.getPropertyValue('--p'))")
    assert heights == pytest.approx(answer["probabilities"], abs=1e-6)
    assert heights.index(max(heights)) == widest
    state = visit.page.get_attribute("#answer", "data-state")
    assert state == ("accepted" if answer["accepted"] else "refused")
    assert visit.page.get_attribute("#seen", "src") == f"data:image/png;base64,{answer['seen']}"
    assert visit.page.inner_text("#model") == answer["model"]
    for fact in ("#round-trip", "#in-service"):
        assert re.fullmatch(r"[\d.]+ ms", visit.page.inner_text(fact))


def test_the_answer_follows_while_the_pointer_is_still_down(visit: Visit) -> None:
    visit.draw(THREE, lift=False)
    visit.answered()
    half = visit.drawn
    visit.draw([(0.29, 0.78), (0.1, 0.1)], lift=False)
    visit.answered()
    assert visit.drawn != half, "the same stroke goes on, and the answer with it"


def test_a_screen_reader_is_told_the_answer(visit: Visit) -> None:
    visit.draw(THREE)
    visit.answered()
    expect(visit.page.locator("#announce")).to_contain_text(re.compile(r"\b\d\b"))
    assert visit.page.locator("#announce").get_attribute("role") == "status"


def test_undo_redo_and_clear_walk_through_what_was_drawn(visit: Visit) -> None:
    page = visit.page
    answer = page.locator("#answer")
    visit.draw(THREE)
    visit.answered()
    first = visit.sent
    visit.draw([(0.1, 0.9), (0.9, 0.9)])
    visit.answered()
    page.click("#undo")
    visit.answered()
    assert visit.sent == first
    page.keyboard.press("Delete")
    expect(answer).to_have_attribute("data-state", "idle")
    expect(page.locator("#hint")).to_be_visible()
    page.keyboard.press("Control+z")
    visit.answered()
    assert visit.sent == first
    page.keyboard.press("Control+z")
    expect(answer).to_have_attribute("data-state", "idle")
    page.keyboard.press("Control+Shift+z")
    visit.answered()
    assert visit.sent == first


def test_a_button_that_has_done_its_work_leaves_the_keyboard_on_the_sheet(visit: Visit) -> None:
    visit.draw(THREE)
    for name, key in (("#undo", "Enter"), ("#redo", "Space"), ("#clear", "Enter")):
        visit.page.locator(name).press(key)
        expect(visit.page.locator(name)).to_be_disabled()
        expect(visit.page.locator("#surface")).to_be_focused()


def test_a_thicker_brush_leaves_more_ink(visit: Visit) -> None:
    def ink() -> int:
        return sum(visit.drawn.histogram()[:128])

    visit.draw([(0.2, 0.2), (0.2, 0.8)])
    visit.answered()
    thin = ink()
    visit.page.click("#clear")
    visit.page.fill("#brush", "12")
    visit.draw([(0.2, 0.2), (0.2, 0.8)])
    visit.answered()
    assert ink() > 1.5 * thin


@pytest.mark.parametrize("held", [{}, {"altKey": True, "ctrlKey": True}], ids=["plain", "by AltGr"])
def test_brackets_change_the_brush_on_every_keyboard(visit: Visit, held: dict[str, bool]) -> None:
    brush = visit.page.locator("#brush")
    before = float(brush.input_value())
    for key, step in (("]", 1), ("[", 0)):
        visit.page.locator("#surface").dispatch_event("keydown", {"key": key, "bubbles": True, **held})
        assert float(brush.input_value()) == before + step


def test_a_pen_whose_lifting_nobody_told_of_draws_no_further(visit: Visit) -> None:
    # As after a click with Control on a Mac, whose menu has it.
    visit.draw([(0.5, 0.2), (0.5, 0.8)], lift=False)
    surface = visit.page.locator("#surface")
    box = surface.bounding_box()
    assert box
    place = {"clientX": box["x"] + 0.9 * box["width"], "clientY": box["y"] + 0.5 * box["height"]}
    surface.dispatch_event("pointermove", {"pointerId": 1, "buttons": 0, **place})
    visit.page.mouse.move(place["clientX"], place["clientY"])
    visit.page.mouse.up()
    visit.answered()
    ink = visit.drawn.point(lambda value: 255 - value).getbbox()
    assert ink
    assert ink[2] < 0.6 * visit.drawn.width
    visit.draw([(0.2, 0.5), (0.9, 0.5)])
    visit.answered()
    wider = visit.drawn.point(lambda value: 255 - value).getbbox()
    assert wider
    assert wider[2] > 0.85 * visit.drawn.width


def test_a_pen_pressed_harder_leaves_more_ink(visit: Visit) -> None:
    client = visit.context.new_cdp_session(visit.page)
    box = visit.page.locator("#surface").bounding_box()
    assert box

    def stroke(force: float) -> int:
        for kind, y in (("mousePressed", 0.2), ("mouseMoved", 0.5), ("mouseMoved", 0.8), ("mouseReleased", 0.8)):
            place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + y * box["height"]}
            pen = {"pointerType": "pen", "force": force, "button": "left", "buttons": 1, "clickCount": 1}
            client.send("Input.dispatchMouseEvent", {"type": kind, **place, **pen})
        visit.answered()
        ink = sum(visit.drawn.histogram()[:128])
        visit.page.click("#clear")
        return ink

    assert stroke(0.9) > 1.5 * stroke(0.2)


def test_a_stale_answer_is_never_shown(visit: Visit) -> None:
    with visit.unanswered():
        visit.draw(THREE)
        visit.page.wait_for_function("sent.some((body) => body instanceof Blob)")
        with visit.page.expect_event("requestfailed", lambda request: "/predict?" in request.url):  # given up
            visit.page.click("#clear")
    expect(visit.page.locator("#answer")).to_have_attribute("data-state", "idle")
    assert visit.page.locator("#bars .best").count() == 0


# ── Pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["drop", "paste", "pick"])
def test_one_picture_is_sent_as_it_is_and_answered(visit: Visit, url: str, way: str) -> None:
    content = picture()
    if way == "pick":
        visit.page.set_input_files("#files", {"name": "three.jpg", "mimeType": "image/jpeg", "buffer": content})
    else:
        getattr(visit, way)(("three.jpg", "image/jpeg", content))
    visit.answered()
    assert visit.sent == content
    assert visit.digit == ask(url, content, "image/jpeg")["digit"]
    expect(visit.page.locator("#picture")).to_be_visible()
    expect(visit.page.locator(".card")).to_have_count(1)
    visit.draw([(0.2, 0.2), (0.2, 0.8)])
    expect(visit.page.locator("#picture")).to_be_hidden()


def test_a_photograph_dropped_on_the_page_is_answered_as_the_api_answers_it(visit: Visit, url: str) -> None:
    photos = sorted((Path(os.environ.get("MNIST_ROOT", "missing")) / "photos").glob("*.jpg"))
    if not photos:
        pytest.skip("no photographs beside MNIST_ROOT")
    content = photos[0].read_bytes()
    visit.drop((photos[0].name, "image/jpeg", content))
    visit.answered()
    assert visit.digit == ask(url, content, "image/jpeg")["digit"]


def test_what_is_dragged_from_another_page_does_not_take_the_place_of_this_one(visit: Visit) -> None:
    visit.draw(THREE)
    visit.answered()
    for name in ("dragover", "drop"):
        assert visit.page.evaluate(
            """name => {
                const dataTransfer = new DataTransfer();
                dataTransfer.setData("text/uri-list", "https://example.org/three.jpg");
                const event = new DragEvent(name, { bubbles: true, cancelable: true, dataTransfer });
                return !document.body.dispatchEvent(event);
            }""",
            name,
        ), "the browser would leave the page"
    expect(visit.page.locator("#trouble")).to_contain_text("Save the picture first")
    visit.draw([(0.1, 0.9), (0.9, 0.9)])
    visit.answered()
    visit.drop(("three.jpg", "image/jpeg", picture()))
    dragged = "e => !e.dispatchEvent(new DragEvent('dragstart', { bubbles: true, cancelable: true }))"
    assert visit.page.locator(".card img").evaluate(dragged), "it would be brought a second time"


def test_several_pictures_make_a_gallery_where_a_bad_one_spoils_nothing(visit: Visit, url: str) -> None:
    pictures = [picture(seed) for seed in range(9)]
    names = [f"picture {i}.jpg" for i in range(9)]
    files = [(name, "image/jpeg", content) for name, content in zip(names, pictures, strict=True)]
    files.insert(4, ("=notes.jpg", "image/jpeg", b"not a picture"))
    visit.drop(*files)
    expect(visit.page.locator("#tally")).to_have_text(re.compile("9 read, [0-9] accepted, 1 failed"))
    expect(visit.page.locator(".card[data-state=error]")).to_have_count(1)
    assert visit.asked("predict_batch")

    with visit.page.expect_download() as download:
        visit.page.click("#csv")
    assert download.value.suggested_filename == "digits.csv"
    with Path(download.value.path()).open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [*names[:4], "'=notes.jpg", *names[4:]], "no cell that is a formula"
    assert rows[4]["digit"] == ""
    assert rows[4]["error"] == ask(url, b"not a picture", "image/jpeg")["error"]["message"]
    for content, row in zip(pictures, rows[:4] + rows[5:], strict=True):
        answer = ask(url, content, "image/jpeg")
        assert int(row["digit"]) == answer["digit"]
        assert float(row["probability"]) == pytest.approx(answer["probability"], abs=1e-4)
        assert [float(row[f"p{i}"]) for i in range(10)] == pytest.approx(answer["probabilities"], abs=1e-4)
        assert row["accepted"] == str(answer["accepted"]).lower()

    card = visit.page.locator(".card").nth(2)
    card.click()
    assert card.get_attribute("aria-pressed") == "true"
    assert visit.digit == int(rows[2]["digit"])
    visit.page.click("#empty")
    expect(visit.page.locator("#gallery")).to_be_hidden()
    expect(visit.page.locator("#answer")).to_have_attribute("data-state", "idle")


def test_pictures_that_are_refused_together_are_shown_one_by_one_as_they_are_read(visit: Visit) -> None:
    heavy = {"error": {"code": "too_large", "message": "the body is too large"}}
    visit.page.route("**/predict_batch?*", lambda route: route.fulfill(status=413, json=heavy))
    later: list[Route] = []
    visit.page.route(
        "**/predict?*", lambda route: later.append(route) if visit.asked("predict")[1:] else route.continue_()
    )
    visit.drop(*((f"{seed}.jpg", "image/jpeg", picture(seed)) for seed in range(2)))
    cards = visit.page.locator(".card")
    expect(cards.nth(0)).to_have_attribute("data-state", re.compile("accepted|refused"))
    visit.answered()
    expect(cards.nth(1)).to_have_attribute("data-state", "waiting")
    expect(visit.page.locator("#tally")).to_have_text("1 of 2 read")
    for route in later:
        route.continue_()
    expect(visit.page.locator("#tally")).to_have_text(re.compile("2 read"))


def test_the_camera_gives_a_picture(browser: Browser, url: str) -> None:
    visit = Visit(browser, permissions=["camera"])
    visit.page.goto(url)
    visit.page.click("#shoot")
    take = visit.page.locator("#camera-take")
    expect(take).to_be_enabled()
    take.click()
    visit.answered()
    expect(visit.page.locator("#camera")).to_be_hidden()
    expect(visit.page.locator(".card .name")).to_have_text("camera.jpg")
    assert visit.page.evaluate("document.getElementById('video').srcObject") is None, "the camera is off again"
    assert visit.said == []
    visit.context.close()


@pytest.mark.parametrize(("width", "height"), [(932, 430), (667, 375), (390, 844)])
def test_a_phone_shows_what_the_camera_takes_and_the_button_for_it(
    browser: Browser, url: str, width: int, height: int
) -> None:
    visit = Visit(browser, permissions=["camera"], has_touch=True, is_mobile=True)
    visit.page.set_viewport_size({"width": width, "height": height})
    visit.page.goto(url)
    visit.page.click("#shoot")
    take = visit.page.locator("#camera-take")
    expect(take).to_be_enabled()
    finder, button = visit.page.locator(".finder").bounding_box(), take.bounding_box()
    assert finder
    assert button
    assert finder["width"] == pytest.approx(finder["height"], abs=1), "a square, as is taken"
    assert finder["y"] >= 0
    assert button["y"] + button["height"] <= height
    visit.context.close()


def test_a_camera_that_is_not_allowed_is_replaced_by_a_file(visit: Visit) -> None:
    visit.page.click("#shoot")
    other = visit.page.locator("#camera-other")
    expect(other).to_be_visible()
    with visit.page.expect_file_chooser() as chooser:
        other.click()
    assert chooser.value.element.get_attribute("capture") == "environment"


def test_a_camera_that_is_allowed_too_late_is_off_and_a_click_takes_one_picture(browser: Browser, url: str) -> None:
    visit = Visit(browser, permissions=["camera"])
    visit.context.add_init_script(
        """{ const media = navigator.mediaDevices, real = media.getUserMedia.bind(media);
             globalThis.streams = []; globalThis.allow = [];
             media.getUserMedia = (wish) => new Promise((resolve) => allow.push(async () => {
                 const stream = await real(wish); streams.push(stream); resolve(stream); })); }"""
    )
    page = visit.page
    page.goto(url)
    for _ in range(2):
        page.click("#shoot")
        if page.evaluate("allow.length") == 1:
            page.keyboard.press("Escape")
    page.evaluate("Promise.all(allow.map((yes) => yes()))")
    expect(page.locator("#camera-take")).to_be_enabled()
    page.locator("#camera-take").dblclick()
    visit.answered()
    expect(page.locator(".card")).to_have_count(1)
    assert page.evaluate("streams.flatMap((s) => s.getTracks()).map((t) => t.readyState)") == ["ended", "ended"]
    assert visit.said == []
    visit.context.close()


# ── When something is wrong ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_is_no_picture_is_refused_kindly_in_the_words_of_the_api(visit: Visit, url: str) -> None:
    visit.drop(("notes.txt", "image/png", b"just words"))
    trouble = visit.page.locator("#trouble")
    expect(trouble).to_be_visible()
    expect(trouble).to_have_attribute("role", "alert")
    expect(trouble).to_contain_text("I can’t open that as a picture")
    message = ask(url, b"just words", "image/png")["error"]["message"]
    expect(trouble).to_contain_text(re.compile(re.escape(message), re.IGNORECASE))
    visit.draw(THREE)
    visit.answered()
    expect(trouble).to_be_hidden()


def test_an_empty_sheet_of_scribbles_is_answered_without_an_error(visit: Visit) -> None:
    visit.draw([(0.5, 0.5)])
    visit.answered()
    expect(visit.page.locator("#trouble")).to_be_hidden()


def test_a_busy_service_is_asked_again(visit: Visit) -> None:
    busy = {"error": {"code": "busy", "message": "Too many requests at once."}}
    answers = iter([503, 503])

    def sometimes(route: Route) -> None:
        if status := next(answers, None):
            route.fulfill(status=status, json=busy, headers={"Retry-After": "0.1"})
        else:
            route.continue_()

    visit.page.route("**/predict?*", sometimes)
    visit.drop(("three.jpg", "image/jpeg", picture()))
    visit.answered()
    assert next(answers, None) is None


def test_strokes_do_not_hurry_a_busy_service(visit: Visit) -> None:
    busy = {"error": {"code": "busy", "message": "Too many requests at once."}}
    visit.page.route("**/predict?*", lambda route: route.fulfill(status=503, json=busy, headers={"Retry-After": "60"}))
    visit.draw(THREE)
    expect(visit.page.locator("#detail")).to_contain_text("busy")
    expect(visit.page.locator("#headline")).to_have_text("Reading…")
    asked = len(visit.asked("predict"))
    for place in range(5):
        visit.draw([(0.1, 0.1 + place / 10), (0.9, 0.1 + place / 10)])
    visit.page.wait_for_timeout(500)  # in which each stroke would have asked
    assert len(visit.asked("predict")) == asked


@pytest.mark.parametrize("status", [408, 500, 504])
def test_try_again_asks_again_after_any_failure_of_the_service(visit: Visit, status: int) -> None:
    visit.page.route("**/predict?*", lambda route: route.fulfill(status=status, body="<h1>Sorry</h1>"), times=1)
    visit.drop(("three.jpg", "image/jpeg", picture()))
    card = visit.page.locator(".card")
    expect(card).to_have_attribute("title", re.compile("three.jpg: "))
    visit.page.click("#retry")
    visit.answered()
    assert card.get_attribute("title") == "three.jpg"
    expect(visit.page.locator("#headline")).to_be_focused()
    visit.page.keyboard.press("ArrowDown")  # scrolls, and takes no picture from the sheet
    expect(visit.page.locator("#picture")).to_be_visible()


def test_an_answer_that_is_late_looks_so(visit: Visit) -> None:
    with visit.unanswered():
        visit.draw(THREE)
        expect(visit.page.locator("#headline")).to_have_text("Reading…")
    visit.answered()
    with visit.unanswered():
        visit.draw([(0.1, 0.9), (0.9, 0.9)])
        expect(visit.page.locator("#answer")).to_have_class(re.compile("late"))
    visit.answered()
    expect(visit.page.locator("#answer")).not_to_have_class(re.compile("late"))


def test_a_file_that_is_gone_is_not_blamed_on_the_connection(visit: Visit, tmp_path: Path) -> None:
    file = tmp_path / "gone.png"
    file.write_bytes(picture(kind="PNG"))
    visit.page.route("**/predict?*", lambda route: route.abort(), times=1)
    visit.page.set_input_files("#files", str(file))
    expect(visit.page.locator("#trouble")).to_contain_text("can’t reach the service")
    file.unlink()
    visit.page.click("#retry")
    expect(visit.page.locator("#trouble")).to_contain_text("can’t open that file")
    expect(visit.page.locator("#retry")).to_be_hidden()


def test_a_picture_whose_type_lies_is_read_alone_as_in_company(visit: Visit) -> None:
    visit.drop(("three.txt", "text/plain", picture()))
    visit.answered()
    alone = len(visit.asked("predict"))
    visit.drop(("four.txt", "text/plain", picture(1)), ("five.jpg", "image/jpeg", picture(2)))
    expect(visit.page.locator("#tally")).to_have_text(re.compile("3 read"))
    assert len(visit.asked("predict_batch")) == 1
    assert len(visit.asked("predict")) == alone


def test_pictures_brought_offline_are_read_once_the_connection_is_back_whatever_is_shown(visit: Visit) -> None:
    visit.drop(("shown.jpg", "image/jpeg", picture()))
    visit.answered()
    visit.context.set_offline(True)
    visit.drop(*((f"{seed}.jpg", "image/jpeg", picture(seed)) for seed in (1, 2)))
    expect(visit.page.locator("#tally")).to_have_text(re.compile("2 failed"))
    visit.page.locator(".card").nth(0).click()
    visit.answered()
    visit.context.set_offline(False)
    expect(visit.page.locator("#tally")).to_have_text(re.compile("3 read"))


def test_a_drawing_made_offline_is_answered_once_the_connection_is_back(visit: Visit) -> None:
    visit.context.set_offline(True)
    visit.draw(THREE)
    expect(visit.page.locator("#trouble")).to_contain_text("can’t reach the service")
    expect(visit.page.locator("#retry")).to_be_visible()
    visit.context.set_offline(False)
    visit.answered()


def test_a_key_is_asked_for_where_the_service_wants_one_and_never_shown(
    browser: Browser, visit: Visit, tmp_path: Path
) -> None:
    visit.draw(THREE)
    visit.answered()
    expect(visit.page.locator("#key")).to_be_hidden()
    with serving(tiny_model(), tmp_path, DIGITS_API_KEY="open sesame") as guarded:
        other = Visit(browser)
        other.page.goto(guarded)
        key = other.page.locator("#key-value")
        expect(key).to_be_visible()
        key.fill("Schlüssel €")  # no header can carry it
        key.press("Enter")
        assert key.evaluate("field => field.validity.patternMismatch")
        other.draw(THREE)
        expect(other.page.locator("#trouble")).to_contain_text("asks for a key")
        key.fill("shut")
        key.press("Enter")
        expect(other.page.locator("#trouble")).to_contain_text("That key was not accepted")
        expect(key).to_be_focused()
        assert not other.page.evaluate("sessionStorage.getItem('key')")
        key.fill("open sesame")
        key.press("Enter")
        other.answered()
        expect(key).to_be_hidden()
        expect(other.page.locator("#surface")).to_be_focused()
        assert "sesame" not in other.page.content()
        assert "$API_KEY" in str(other.page.text_content("#curl"))
        other.context.close()


# ── Curl, keys, colours, sizes ───────────────────────────────────────────────────────────────────────────────────────


def test_the_copied_curl_command_gets_the_answer_on_the_screen(browser: Browser, url: str, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("no curl here")
    visit = Visit(browser, permissions=["clipboard-read", "clipboard-write"])
    visit.page.goto(url)
    (tmp_path / "it's a three.jpg").write_bytes(picture())
    for bring in (lambda: visit.draw(THREE), lambda: visit.drop(("it's a three.jpg", "image/jpeg", picture()))):
        bring()
        visit.answered()
        if not visit.page.locator("#copy").is_visible():
            visit.page.click(".curl summary")
        visit.page.click("#copy")
        expect(visit.page.locator("#copy")).to_have_text("Copied")
        command = visit.page.evaluate("navigator.clipboard.readText()")
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, timeout=60)
        answer = json.loads(done.stdout)
        assert answer["digit"] == visit.digit
        assert visit.page.get_attribute("#seen", "src") == f"data:image/png;base64,{answer['seen']}"
        expect(visit.page.locator("#copy")).to_have_text("Copy")
    visit.context.close()


def test_a_line_break_in_a_name_begins_no_command(visit: Visit) -> None:
    request = {"name": "x\ntouch y #.png", "saved": False}
    make = "request => import('./words.js').then(({curl}) => curl('/predict', 'image/png', request))"
    assert [line.split()[0] for line in visit.page.evaluate(make, request).splitlines()] == ["#", "curl"]


def test_a_digit_can_be_written_with_the_keyboard_alone(visit: Visit) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#surface")).to_be_focused()
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Space")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Space")
    visit.answered()
    drawn = visit.drawn
    left, top, right, bottom = drawn.point(lambda value: 255 - value).getbbox() or (0, 0, 0, 0)
    assert bottom - top > 4 * (right - left), "a stroke straight down"


def test_the_keyboard_s_pen_can_be_trusted(visit: Visit) -> None:
    page = visit.page
    pen, undo = page.locator("#pen"), page.locator("#undo")
    page.focus("#surface")
    page.keyboard.down("Space")
    page.keyboard.down("Space")  # held: it repeats
    page.keyboard.up("Space")
    expect(pen).to_have_text("Pen down")
    page.keyboard.press("Shift+ArrowDown")
    visit.answered()
    first = visit.sent
    page.keyboard.press("Space")
    expect(pen).to_have_text("Pen up")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Control+z")  # in the middle of the second stroke
    visit.answered()
    assert visit.sent == first
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    visit.answered()
    second = visit.sent
    assert second != first
    page.keyboard.press("Delete")
    expect(undo).to_be_enabled()
    page.keyboard.press("Control+z")
    visit.answered()
    assert visit.sent == second, "Undo brings back the stroke that was being drawn"
    page.keyboard.press("Delete")
    page.keyboard.press("Space")  # not to lift what Delete has lifted
    page.keyboard.press("Shift+ArrowUp")
    visit.answered()
    assert visit.drawn.getextrema() == (0, 255)
    visit.drop(("three.jpg", "image/jpeg", picture()))
    visit.answered()
    page.focus("#surface")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#picture")).to_be_hidden()


def test_focus_and_choice_are_seen_in_the_reader_s_own_colours(browser: Browser, url: str) -> None:
    visit = Visit(browser, forced_colors="active")
    visit.page.goto(url)
    visit.drop(("three.jpg", "image/jpeg", picture()))
    visit.answered()
    outline = "e => getComputedStyle(e).outlineStyle"
    assert visit.page.locator(".card").evaluate(outline) == "solid"
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")  # the link to the sheet
    assert visit.page.locator("#sheet").evaluate(outline) == "solid"
    visit.context.close()


def test_a_phone_on_its_side_shows_sheet_and_answer_beside_each_other(browser: Browser, url: str) -> None:
    visit = Visit(browser, has_touch=True, is_mobile=True)
    for width, height in ((932, 430), (844, 390), (667, 375), (800, 280)):  # the last with the browser's bars
        visit.page.set_viewport_size({"width": width, "height": height})
        visit.page.goto(url)
        sheet, answer = (visit.page.locator(name).bounding_box() for name in ("#sheet", "#headline"))
        assert sheet
        assert answer
        assert sheet["y"] + sheet["height"] <= height
        assert answer["y"] + answer["height"] <= height
        assert answer["x"] > sheet["x"] + sheet["width"]
        for name in ("undo", "redo", "clear", "brush", "pick", "shoot"):
            tool = visit.page.locator(f"#{name}")
            tool.scroll_into_view_if_needed()
            assert tool.evaluate(
                """tool => { const { x, y, width, height } = tool.getBoundingClientRect();
                    return tool.contains(document.elementFromPoint(x + width / 2, y + height / 2)); }"""
            ), f"{name} lies under something at {width}×{height}"
    visit.page.set_viewport_size({"width": 320, "height": 150})  # a desktop at 400%
    visit.page.goto(url)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 320
    visit.context.close()


def test_the_drawing_is_sharp_on_whatever_screen_it_comes_to(visit: Visit) -> None:
    # Chromium tells nobody when it only plays another screen: its event is played, too.
    visit.context.add_init_script(
        """{ const real = matchMedia; globalThis.screens = [];
             globalThis.matchMedia = (query) => {
                 if (query.includes("resolution")) screens.push(new EventTarget());
                 return query.includes("resolution") ? screens.at(-1) : real(query); }; }"""
    )
    visit.page.reload()
    surface = visit.page.locator("#surface")
    side = surface.evaluate("canvas => canvas.width")
    client = visit.context.new_cdp_session(visit.page)
    for scale in (2, 3):
        screen = {"width": 1280, "height": 800, "deviceScaleFactor": scale, "mobile": False}
        client.send("Emulation.setDeviceMetricsOverride", screen)
        visit.page.evaluate("screens.at(-1).dispatchEvent(new Event('change'))")
        assert surface.evaluate("canvas => canvas.width") == scale * side


def test_the_reader_s_size_of_letters_counts(visit: Visit) -> None:
    size = visit.page.evaluate("getComputedStyle(document.documentElement).fontSize")
    rule = visit.page.evaluate(
        "[...document.styleSheets[0].cssRules].find((r) => r.selectorText === ':root').style.fontSize"
    )
    assert size == "16px"
    assert rule == "100%"


def test_every_control_is_reached_with_tab_and_shows_that_it_is(visit: Visit) -> None:
    visit.draw(THREE)
    visit.answered()
    visit.page.click(".curl summary")
    visit.page.click("#undo")
    visit.page.keyboard.press("Control+Shift+z")
    expect(visit.page.locator("#copy")).to_be_enabled()  # the answer to what is there again has come
    visit.page.evaluate("document.activeElement.blur()")
    reached = {}
    for _ in range(25):
        visit.page.keyboard.press("Tab")
        name, ring = visit.page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
                const sheet = getComputedStyle(e.parentElement).boxShadow.includes("3px");
                return [e.id || e.textContent.trim(), s.outlineStyle !== "none" || sheet]; }"""
        )
        reached[name] = ring
    for name in ("theme", "surface", "undo", "clear", "brush", "pick", "shoot", "copy", "Keys"):
        assert reached.get(name), f"{name}: reached with a visible focus? {reached}"


def test_the_chosen_colours_stay_chosen(visit: Visit) -> None:
    def paper() -> str:
        return str(visit.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = paper()
    visit.page.click("#theme")
    dark = paper()
    assert dark != light
    visit.page.reload()
    assert paper() == dark
    expect(visit.page.locator("#theme")).to_have_attribute("aria-pressed", "true")


def test_nothing_moves_for_those_who_asked_for_less_motion(browser: Browser, url: str) -> None:
    visit = Visit(browser, reduced_motion="reduce")
    visit.page.goto(url)
    visit.draw(THREE)
    visit.answered()
    assert visit.page.evaluate("document.getAnimations().length") == 0
    visit.context.close()


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_finger_draws_on_a_phone_and_nothing_scrolls_sideways(browser: Browser, url: str, width: int) -> None:
    visit = Visit(browser, has_touch=True, is_mobile=True)
    visit.page.set_viewport_size({"width": width, "height": 740})
    visit.page.goto(url)
    box = visit.page.locator("#surface").bounding_box()
    assert box
    client = visit.context.new_cdp_session(visit.page)
    places = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in THREE]
    client.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": places[:1]})
    for place in places[1:]:
        client.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [place]})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    visit.answered()
    visit.page.set_input_files(
        "#files",
        [{"name": f"a long name {i} of a picture.jpg", "mimeType": "image/jpeg", "buffer": picture(i)} for i in (1, 2)],
    )
    expect(visit.page.locator("#tally")).to_contain_text("2 read,")
    scrolled, wide = visit.page.evaluate("[scrollY, document.documentElement.scrollWidth]")
    assert scrolled == 0
    assert wide <= width
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_to_object_to(
    browser: Browser, url: str, scheme: str, size: dict[str, int], tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed").Axe()
    visit = Visit(browser, color_scheme=scheme, reduced_motion="reduce")
    visit.page.set_viewport_size(size)
    visit.page.goto(url)

    def check(state: str) -> None:
        found = axe.run(visit.page)
        assert found.violations_count == 0, f"{state}: {found.generate_report()}"
        shot = visit.page.screenshot(path=tmp_path / f"{state}.png", full_page=True)
        colours = Image.open(io.BytesIO(shot)).convert("RGB").getcolors(1 << 24)
        assert colours is not None
        most = max(colours)[1]
        assert (sum(most) > 3 * 128) == (scheme == "light")
        assert len(colours) > 50, "a page, not an empty sheet"

    check("idle")
    visit.draw(THREE)
    visit.answered()
    visit.page.click(".curl summary")
    visit.page.click("footer summary")
    check("answer")
    visit.drop(("a.jpg", "image/jpeg", picture(1)), ("b.jpg", "image/jpeg", b"words"))
    expect(visit.page.locator("#tally")).to_contain_text("1 failed")
    check("gallery")
    visit.page.click(".card[data-state=error]")
    expect(visit.page.locator("#trouble")).to_be_visible()
    check("error")
    visit.page.click("#shoot")
    expect(visit.page.locator("#camera-other")).to_be_visible()
    check("camera")
    visit.context.close()


# ── With a trained model ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_three_that_is_drawn_is_read_as_a_three(browser: Browser, trained_url: str) -> None:
    visit = Visit(browser)
    visit.page.goto(trained_url)
    visit.draw(THREE)
    expect(visit.page.locator("#headline")).to_have_text("That’s a 3")
    expect(visit.page.locator("#answer")).to_have_attribute("data-state", "accepted")
    visit.context.close()


def test_the_pages_own_ten_numerals_are_read_when_traced(browser: Browser, trained_url: str) -> None:
    visit = Visit(browser)
    visit.page.goto(trained_url)
    strokes: list[list[list[tuple[float, float]]]] = visit.page.evaluate(TRACE)
    read = []
    for digit in strokes:
        for stroke in digit:
            visit.draw(stroke)
        visit.answered()
        read.append(visit.digit)
        visit.page.click("#clear")
        expect(visit.page.locator("#answer")).to_have_attribute("data-state", "idle")
    assert read == list(range(10))
    visit.context.close()


TRACE = """async () => {
    const { GLYPHS } = await import("./glyphs.js");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    return GLYPHS.map((whole) => whole.split(/(?=M)/).map((part) => {
        path.setAttribute("d", part);
        const length = path.getTotalLength();
        return [...Array(25).keys()].map((i) => {
            const { x, y } = path.getPointAtLength((length * i) / 24);
            return [0.25 + x / 200, 0.15 + y / 200];
        });
    }));
}"""
