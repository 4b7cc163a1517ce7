"""Writes the tables of the pages, from the code and from what was measured: `python -m docs.make_tables`.

A table stands between `<!-- NAME -->` and `<!-- end -->`; tests/test_docs.py fails where one is not what the code says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from digits.settings import MIB, RANGES, Settings, describe
from digits.telemetry import Telemetry
from docs import capacity
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
    defaults, rows = Settings(), []
    for variable, about in describe().items():
        name = variable.removeprefix("DIGITS_").lower()
        low, high, _ = RANGES.get(name, (None, None, ""))
        span = "–" if low is None else f"{number(name, low)} to {number(name, high)}"
        rows.append((f"`{variable}`", number(name, getattr(defaults, name)), span, about))
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


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    **{name: lambda make=make: table(*make()) for name, make in capacity.TABLES.items()},  # type: ignore[misc]
    **{f"parameters-{name}": lambda name=name: parameters(name) for name in ENTRY_POINTS},  # type: ignore[misc]
}


def filled(text: str) -> str:
    """A page with its tables as the code has them now."""
    return TABLE.sub(lambda found: f"<!-- {found[1]} -->\n{TABLES[found[1]]()}<!-- end -->", text)


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        content = page.read_text()
        if filled(content) != content:
            page.write_text(filled(content))
