"""The documentation says what the code says: every parameter, setting, endpoint, metric and command is there, none that
is gone, defaults are right, links lead somewhere, and the pages build."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from digits.classifier import PHOTOGRAPH_THRESHOLD
from digits.front import Front
from digits.openapi import PictureAnswer, describe
from digits.settings import MIB, Settings, by_variable
from docs.make_tables import TABLE, TABLES, filled
from pipelines import cli
from pipelines.evaluate import BESIDE
from pipelines.parameters import ENTRY_POINTS
from pipelines.report import NOT_DIGITS, OTHER_WRITERS, PHOTOGRAPHS, slug

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LEFT_OUT = {".venv", "site", "node_modules", "mlruns", "dist", "build", ".git", ".pytest_cache", "data", "work"}
# Settings of tools of ours that are not the service's.
OTHER_VARIABLES = {"DIGITS_FUZZ"}


@cache
def pages() -> dict[Path, str]:
    """Every Markdown file of the project."""
    found = {}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in LEFT_OUT and not name.startswith(".")]
        found |= {Path(folder, name): Path(folder, name).read_text() for name in files if name.endswith(".md")}
    return found


@cache
def documented() -> str:
    """What users read: docs/ and README."""
    return "\n".join(text for page, text in pages().items() if page.is_relative_to(DOCS) or page == ROOT / "README.md")


# -- links ------------------------------------------------------------------------------------------------------------


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """The ids that headings get, in MkDocs and on code hosts alike."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.M), re.M)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", without_code(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        wrong = not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file))
        if wrong:
            broken.append(f"{page.relative_to(ROOT)}: {target}")
    return broken


def test_every_relative_link_leads_to_a_file_and_a_heading() -> None:
    assert [link for page, text in pages().items() for link in broken_links(page, text)] == []


def test_a_link_to_nothing_is_noticed(tmp_path: Path) -> None:
    page = ROOT / "docs" / "index.md"
    assert broken_links(page, "[a](nowhere.md) [b](service.md#nothing) [c](service.md#errors) `[d](code.md)`") == [
        "docs/index.md: nowhere.md",
        "docs/index.md: service.md#nothing",
    ]


# -- parameters and settings ------------------------------------------------------------------------------------------


def test_the_tables_are_what_the_code_says() -> None:
    written = [page for page in pages() if page.parent == DOCS or page == ROOT / "README.md"]
    stale = [page.name for page in written if filled(pages()[page]) != pages()[page]]
    assert stale == [], "run `python -m docs.make_tables`"


def test_every_table_is_on_some_page() -> None:
    assert {name for text in pages().values() for name in TABLE.findall(text)} == set(TABLES)


def test_no_page_speaks_of_a_parameter_or_entry_point_that_does_not_exist() -> None:
    wrong = []
    for page, text in pages().items():
        if page.name in ("log.md", "CHANGELOG.md"):  # they speak of the past
            continue
        for line in text.splitlines():
            for command in re.split(r"mlflow run|make train", line)[1:]:
                entry = re.search(r"-e (\w+)", command)
                name = entry[1] if entry else "main"
                if name not in ENTRY_POINTS:
                    wrong.append(f"{page.name}: -e {name}")
                    continue
                used = re.findall(r"-P '?(\w+)=", command)
                wrong += [
                    f"{page.name}: {name} -P {each}" for each in used if each not in ENTRY_POINTS[name].model_fields
                ]
            known = {each for model in ENTRY_POINTS.values() for each in model.model_fields}
            wrong += [f"{page.name}: -P {each}" for each in re.findall(r"-P '?(\w+)=", line) if each not in known]
    assert wrong == []


def test_no_page_speaks_of_a_setting_that_does_not_exist() -> None:
    known = set(by_variable()) | OTHER_VARIABLES | {"DIGITS_SERVICE", "DIGITS_PORT"}  # links of Kubernetes
    spoken_of = {
        (page.name, name)
        for page, text in pages().items()
        for name in re.findall(r"\bDIGITS_[A-Z_]*[A-Z]\b", text)
        if page.name not in ("log.md", "CHANGELOG.md")
    }
    assert {(page, name) for page, name in spoken_of if name not in known} == set()


def test_defaults_that_sentences_mention_are_the_codes() -> None:
    defaults = Settings()
    for page, text in pages().items():
        for name, value in re.findall(r"`DIGITS_([A-Z_]+)` \(([\d.]+) ?(?:s|MiB)?\)", text):
            default = getattr(defaults, name.lower())
            scale = MIB if name.endswith("_BYTES") else 1
            assert float(value) * scale == default, f"{page.name}: DIGITS_{name} is {default} by default"
    readme = (ROOT / "README.md").read_text()
    assert f"{defaults.max_bytes // MIB} MiB" in readme
    assert f"{defaults.max_pixels // 1_000_000} megapixels" in readme


# -- the service ------------------------------------------------------------------------------------------------------


def service_routes() -> set[str]:
    """SYSTEM_ROUTES of service.py, read without importing it: that needs a model in a store."""
    for node in ast.parse((ROOT / "service.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SYSTEM_ROUTES":
            assert isinstance(node.value, ast.Call)
            return set(ast.literal_eval(node.value.args[0]))
    raise AssertionError("service.py has no SYSTEM_ROUTES")


def own_routes() -> set[str]:
    nothing: Any = None
    front = Front(nothing, nothing, nothing, Settings(), nothing, frozenset())
    front.pool.shutdown()
    return set(front.handlers)


def test_every_endpoint_is_documented_and_no_other() -> None:
    text = (DOCS / "service.md").read_text()
    told = {path.rstrip("/") or "/" for path in re.findall(r"`(?:GET|POST) (/[^`?]*)`", text)}
    told |= {"/"} if "`/` leads" in text else set()
    assert told == {path.rstrip("/") or "/" for path in service_routes() | own_routes()}


def test_every_field_and_status_of_the_openapi_document_is_documented() -> None:
    text = (DOCS / "service.md").read_text()
    spec = describe({"info": {"version": "1"}, "paths": {}})
    missing = [name for name in PictureAnswer.model_fields if f"| `{name}` |" not in text]
    statuses = {
        status
        for path in spec["paths"].values()
        for operation in path.values()
        for status in operation["responses"]
        if status != "200"
    }
    assert missing == []
    assert {status for status in statuses if f"| {status} |" not in text} == set()


def test_the_openapi_document_knows_the_key_where_one_is_asked_for() -> None:
    spec = describe({"info": {"version": "1"}, "paths": {"/livez": {"get": {}}}}, keyed=True)
    secured = {path for path, item in spec["paths"].items() for operation in item.values() if "security" in operation}
    assert secured == {"/predict", "/predict_batch", "/model"}
    named = {way for each in spec["paths"]["/model"]["get"]["security"] for way in each}
    assert named == set(spec["components"]["securitySchemes"]) == {"X-API-Key", "bearer"}
    assert "security" not in str(describe({"info": {"version": "1"}, "paths": {}})["paths"])


def codes() -> set[tuple[str, str]]:
    """(status, code) of every Refusal and ImageError that is made anywhere in digits/."""
    found = set()
    for path in (ROOT / "digits").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            values = [each.value if isinstance(each, ast.Constant) else None for each in node.args]
            if node.func.id == "Refusal" and isinstance(values[1], str):
                found.add((str(values[0]), values[1]))
            elif node.func.id == "ImageError" and isinstance(values[0], str):
                status = values[2] if len(values) > 2 else 400
                found.add((str(status), values[0]))
    return found


def test_every_error_code_is_in_the_table_with_its_status_and_no_other() -> None:
    told = set(re.findall(r"^\| (\d{3}) \| `(\w+)` \|", (DOCS / "service.md").read_text(), re.M))
    assert told == codes()


def test_every_metric_is_documented_and_no_page_speaks_of_another() -> None:
    own = set(re.findall(r"^\| `(\w+)` \|", TABLES["metrics"](), re.M))
    assert own >= {"digits_predicted_total", "bentoml_service_request_total"}
    source = (ROOT / "digits" / "telemetry.py").read_text()
    assert own == set(re.findall(r"\"((?:digits|bentoml)_\w+)\"", source))
    spoken_of = set(re.findall(r"\b((?:digits|bentoml_service)_\w+?)(?:_bucket|_count|_sum)?\b", documented()))
    modules = {path.stem for path in (ROOT / "deploy").rglob("*")}
    unknown = {name for name in spoken_of if name not in own | modules | {"bentoml_service_adaptive_batch_size"}}
    assert unknown == set()


def test_the_metrics_in_mlflow_that_are_documented_are_logged() -> None:
    rows = re.findall(r"^\| (`\w+`.*?) \| (?:trials|training|report) \|", (DOCS / "how-it-works.md").read_text(), re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(named) > 20
    sets = {slug(name) for name in (*PHOTOGRAPHS, *NOT_DIGITS, OTHER_WRITERS, *BESIDE)}
    of_sets = {f"{name}_{what}" for name in sets for what in ("accuracy", "refused", "auroc")}
    source = "".join(path.read_text() for path in (ROOT / "pipelines").glob("*.py"))
    assert {name for name in named - of_sets if f'"{name}"' not in source} == {"photograph_threshold"}
    assert PHOTOGRAPH_THRESHOLD in named


# -- commands ---------------------------------------------------------------------------------------------------------


def test_the_tree_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2].split("```")[1]
    for folder in ("digits", "pipelines"):
        part = tree.partition(f"\n{folder}/")[2]
        named = re.findall(r"^  ([\w ]+?)(?:   .*|  [a-z].*)?$", re.split(r"^\w", part, flags=re.M)[0], re.M)
        modules = {file.stem for file in (ROOT / folder).glob("*.py")} - {"__init__", "__main__"}
        assert {word for line in named for word in line.split()} == modules


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(), re.M))


def test_every_make_target_is_documented_and_no_page_speaks_of_another() -> None:
    text = documented()
    assert {name for name in targets() if f"`make {name}" not in text and f"\nmake {name}" not in text} == set()
    spoken_of = {
        (page.name, name)
        for page, content in pages().items()
        for name in re.findall(r"(?:^|`|&& )make ([a-z][a-z-]*)", content, re.M)
    }
    assert {(page, name) for page, name in spoken_of if name not in targets()} == set()


def test_every_entry_point_and_every_command_of_digits_is_documented() -> None:
    text = documented()
    assert {name for name in ENTRY_POINTS if f"`{name}`" not in text} == set()
    usage = cli.parser()._subparsers
    assert usage is not None
    names = {name for action in usage._group_actions for name in (action.choices or ())}
    assert names >= {"predict"}
    assert {name for name in names if f"`digits {name} " not in text} == set()
    assert set(re.findall(r"(?:^|`|bin/)digits ([a-z]+)\b", text, re.M)) <= names


# -- the pages --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="MkDocs Material is not installed: pip install mkdocs-material")
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(folder),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_pages_build_strictly_and_every_one_is_there(site: Path) -> None:
    for page in DOCS.glob("*.md"):
        built = site / "index.html" if page.stem == "index" else site / page.stem / "index.html"
        assert "<h1" in built.read_text(), page.name
    assert (site / "clients" / "client.py").is_file()


def test_every_table_and_list_of_a_page_is_built_as_one(site: Path) -> None:
    left = [
        (page.parent.name, line)
        for page in site.rglob("*.html")
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text(), re.DOTALL)
        for line in paragraph.splitlines()
        if re.match(r"\| |- |\d+\. ", line)
    ]
    assert left == [], "put an empty line above"


def test_a_built_page_asks_no_other_host_for_anything(site: Path) -> None:
    loaded = [
        (page.name, address)
        for page in site.rglob("*.html")
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text())
        for address in re.findall(r"(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)", tag)
        if 'rel="canonical"' not in tag
    ]
    assert loaded == []
