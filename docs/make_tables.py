"""Writes the tables of README and pages, from the code and from what was measured: `python -m docs.make_tables`.

A table stands between `<!-- NAME -->` and `<!-- end -->`; tests/test_docs.py fails where one is not what the code says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from digits import openapi
from digits.settings import MIB, by_variable
from digits.telemetry import Telemetry
from docs import capacity, quality
from pipelines.parameters import ENTRY_POINTS, allowed

DOCS = Path(__file__).parent
TABLE = re.compile(r"<!-- ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def parameters(entry_point: str) -> str:
    """Every parameter of an entry point of MLproject: default, what is allowed, what it is for."""
    model = ENTRY_POINTS[entry_point]
    rows = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{field.default}`" if field.default != "" else "empty"
        about = (field.description or "").replace("|", "\\|")
        rows.append((f"`{name}`", default, allowed(name, field), about))
    return table(("parameter", "default", "allowed", "what it is for"), rows)


def settings() -> str:
    """Every environment variable of the service."""
    rows = []
    for variable, setting in by_variable().items():
        ends = [number(setting.name, end) for end in setting.metadata.get("range", ())]
        span = " to ".join(ends) or "–"
        rows.append((f"`{variable}`", number(setting.name, setting.default), span, setting.metadata["about"]))
    return table(("variable", "default", "allowed", "what it is for"), rows)


def number(name: str, value: Any) -> str:
    """A setting's value as it is read in a table."""
    if value in ("", ()):
        return "empty"
    if name.endswith("_bytes"):
        return f"{value // MIB:,} MiB" if value % MIB == 0 else f"{value:,} bytes"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else f"`{value}`"


class _Client:
    """Takes the place of prometheus_client and notes what is asked of it."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def _take(self, kind: str) -> Callable[..., _Client]:
        def take(name: str, about: str, labels: Any = (), **_: Any) -> _Client:
            self.rows.append((f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), about))
            return self

        return take

    def __getattr__(self, kind: str) -> Callable[..., _Client]:
        return self._take(kind.lower())

    def labels(self, *_: str) -> _Client:
        return self


def metrics() -> str:
    """Every metric of the service's own."""
    client = _Client()
    Telemetry(client, "digits", "digits", "1")
    return table(("metric", "kind", "labels", "what it counts"), client.rows)


# -- the API, from the document that the service hands out as /docs.json ----------------------------------------------


def _openapi() -> dict[str, Any]:
    return openapi.describe({"info": {"version": "1"}, "paths": {}})


def _named(schema: dict[str, Any]) -> str:
    """A schema's name, as a link to its table where it has one."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return f"[`{name}`](#{name.lower()})" if name else "JSON"


def endpoints() -> str:
    """Every route that the service adds to BentoML's own: method, body, answer, what it is for."""
    rows = []
    for path, methods in _openapi()["paths"].items():
        for method, operation in methods.items():
            accepted = operation.get("requestBody", {}).get("content", {})
            query = ", ".join(
                f"`{each['name']}={'`, `'.join(each['schema']['enum'])}`" for each in operation.get("parameters", [])
            )
            answer = operation["responses"]["200"]["content"]["application/json"].get("schema", {})
            body = ", ".join(f"`{media}`" for media in accepted) or "–"
            rows.append((f"`{method.upper()} {path}`", body, query or "–", _named(answer), operation["description"]))
    return table(("request", "body", "query", "answer", "what it is for"), rows)


def schema(name: str) -> str:
    """The fields of an object of the API."""
    described = _openapi()["components"]["schemas"][name]
    needed = described.get("required", [])
    rows = []
    for field, facts in described["properties"].items():
        kinds = [facts, *facts.get("anyOf", [])]
        kind = next(each["type"] for each in kinds if "type" in each)
        about = facts.get("description") or _inside(facts)
        rows.append((f"`{field}`", kind, "always" if field in needed else "where asked for", about))
    return table(("field", "type", "is there", "what it is"), rows)


def _inside(facts: dict[str, Any]) -> str:
    """What a field without a description of its own holds."""
    if "properties" in facts:
        return ", ".join(f"`{name}`" for name in facts["properties"])
    return "in order, each " + " or ".join(_named(each) for each in facts["items"]["anyOf"])


def statuses() -> str:
    """Every status but 200."""
    responses = _openapi()["paths"]["/predict"]["post"]["responses"]
    rows = [(f"{status}", facts["description"]) for status, facts in responses.items() if status != "200"]
    return table(("status", "meaning"), rows)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    "api-endpoints": endpoints,
    "api-statuses": statuses,
    **{f"api-{name}": lambda name=name: schema(name) for name in ("PictureAnswer", "PictureAnswers", "Failure")},  # type: ignore[misc]
    **{name: lambda make=make: table(*make()) for name, make in (capacity.TABLES | quality.TABLES).items()},  # type: ignore[misc]
    **{f"parameters-{name}": lambda name=name: parameters(name) for name in ENTRY_POINTS},  # type: ignore[misc]
}


def filled(text: str) -> str:
    """A page with its tables as the code has them now."""
    return TABLE.sub(lambda found: f"<!-- {found[1]} -->\n{TABLES[found[1]]()}<!-- end -->", text)


if __name__ == "__main__":
    for page in (DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))):
        content = page.read_text()
        if filled(content) != content:
            page.write_text(filled(content))
