"""Pictures of MLflow's pages after a study, for the README and docs/: `python -m docs.make_mlflow_pictures FOLDER`.

FOLDER holds mlflow.db and mlruns/ of finished runs. `mlflow ui` is started on a free port and looked at with Debian's
Chromium by Playwright; the newest complete `main` run is shown. Writes docs/images/mlflow-*.webp; look at them.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.ports import free_port

IMAGES = Path(__file__).parent / "images"
CHROMIUM, FLAGS = "/usr/bin/chromium", ["--no-sandbox", "--disable-dev-shm-usage"]
SIZE = {"width": 1600, "height": 900}
PATIENCE = 60  # seconds; a loaded machine is slow
DRAWN = 6_000  # milliseconds from the loaded page until its charts are drawn: MLflow has nothing else to wait for
# Neither the assistant's panel nor its invitation: they cover a third of the page.
QUIET = """localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");"""
# What a person would choose under "Columns"; MLflow keeps it in the browser, by experiment.
COLUMNS = [
    *("metrics.`validation_accuracy`", "metrics.`photographs_accuracy`", "metrics.`score`", "metrics.`test_accuracy`"),
    *("params.`learning_rate`", "params.`dropout`", "params.`disturbed`"),
]
VIEW = """localStorage.setItem('MLflowLocalStorage-1.1-ExperimentPage-["%s"]-ReactComponentState', '%s');"""


@contextmanager
def pages_of(folder: Path) -> Iterator[str]:
    """MLflow's pages on the runs of a folder while the block lasts; their address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder.resolve()}/mlflow.db"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(address, timeout=5):
                    break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield f"{address}/#"
    finally:
        server.terminate()
        server.wait(20)


def addresses(folder: Path) -> dict[str, str]:
    """The page behind each picture's name."""
    client = MlflowClient(f"sqlite:///{folder.resolve()}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    if experiment is None:
        raise SystemExit(f"there is no experiment digits in {folder}; expected the folder of finished runs")
    number = experiment.experiment_id
    query = "tags.kind = 'main' and tags.outcome = 'complete'"
    main = client.search_runs([number], query, order_by=["attributes.start_time DESC"], max_results=1)
    if not main:
        raise SystemExit(f"no main run in {folder} has come to its end: mlflow run . first")
    below = client.search_runs([number], f"tags.`mlflow.parentRunId` = '{main[0].info.run_id}'")
    of_kind = {run.data.tags["kind"]: run.info.run_id for run in below}
    trials = [run.info.run_id for run in below if run.data.tags["kind"] == "trial" and "score" in run.data.metrics]
    run = f"/experiments/{number}/runs"
    both = f"runs={quote(json.dumps(trials))}&experiments={quote(json.dumps([number]))}"
    return {
        "runs": run,
        "curves": f"{run}/{of_kind['training']}/model-metrics",
        "trials": f"/compare-runs?{both}",
        "card": f"/models/digits/versions/{main[0].data.tags['version']}",
    }


def view_of(folder: Path) -> str:
    """The script that has COLUMNS in the list of runs."""
    experiment = MlflowClient(f"sqlite:///{folder.resolve()}/mlflow.db").get_experiment_by_name("digits")
    assert experiment is not None
    state = {"orderByKey": "attributes.start_time", "orderByAsc": True, "selectedColumns": COLUMNS}
    return VIEW % (experiment.experiment_id, json.dumps(state))


def arrange(page: Page, name: str) -> None:
    """What a person would do before looking."""
    if name == "runs":
        page.locator(".ag-row button[data-component-id*=runnamecellrenderer]").first.click()
    elif name == "trials":
        page.locator("[class*=select-selector]").nth(1).click()  # the metrics
        for key in ("Backspace", *"score", "Enter", "Escape"):
            page.keyboard.press(key, delay=100)
    elif name == "curves":
        page.get_by_placeholder("Search metric charts").fill("^(train|validation|hard|learning)")


def take(folder: Path) -> None:
    """All pictures, one after the other."""
    with pages_of(folder) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, address in addresses(folder).items():
            context = browser.new_context(viewport=SIZE)
            context.add_init_script(QUIET + view_of(folder))
            page = context.new_page()
            page.set_default_timeout(PATIENCE * 1_000)
            page.goto(base + address, wait_until="load")
            page.wait_for_timeout(DRAWN)
            arrange(page, name)
            page.wait_for_timeout(DRAWN)
            picture = Image.open(io.BytesIO(page.screenshot()))
            picture.save(IMAGES / f"mlflow-{name}.webp", quality=80, method=6)
            print(f"{base}{address}  →  mlflow-{name}.webp", flush=True)
            context.close()
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
