"""The service's settings: environment variables named DIGITS_* in, one checked and frozen object out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

PREFIX = "DIGITS_"
LINKS = ("DIGITS_SERVICE_", "DIGITS_PORT")  # Kubernetes tells these to every pod beside a Service called digits
MIB = 2**20
FORM_BYTES = 4096  # boundaries and headers around one picture


class SettingsError(ValueError):
    """A setting that can't be used; the message is one line that names the variable, its value and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every limit is per worker. `describe` says what each is for; the table of docs/service.md is made from it."""

    model: str = ""
    workers: int = 0
    threads: int = 2
    model_threads: int = 1
    max_batch_size: int = 64
    max_bytes: int = 20 * MIB
    max_pixels: int = 100_000_000
    max_batch_items: int = 256
    max_batch_bytes: int = 64 * MIB
    max_buffered_bytes: int = 256 * MIB
    max_concurrency: int = 256
    max_connections: int = 16_384
    timeout: float = 30.0
    idle_seconds: float = 15.0
    reload_seconds: float = 5.0
    api_key: str = ""
    cors_origins: tuple[str, ...] = ()
    access_log: str = "errors"

    def __repr__(self) -> str:  # a key must not end up in a log
        shown = (f"{f.name}={'***' if f.name == 'api_key' else getattr(self, f.name)!r}" for f in fields(self))
        return f"Settings({', '.join(shown)})"


# name: (lowest, highest, what it is for). Numbers only; the words have checks of their own below.
RANGES: dict[str, tuple[float, float, str]] = {
    "workers": (0, 256, "processes; 0 means one for each core that may be used, at most 8"),
    "threads": (1, 64, "threads that decode large pictures and batches"),
    "model_threads": (1, 64, "threads inside one call of the model"),
    "max_batch_size": (1, 4096, "pictures the model sees at once, at most; 1 means no batching"),
    "max_bytes": (64, 2**30, "bytes of one picture"),
    "max_pixels": (784, 2_000_000_000, "pixels of one picture"),
    "max_batch_items": (1, 10_000, "pictures in one /predict_batch"),
    "max_batch_bytes": (64, 2**31, "bytes of one /predict_batch"),
    "max_buffered_bytes": (1024, 2**34, "bytes of all request bodies held at once; beyond it 503"),
    "max_concurrency": (1, 100_000, "requests in progress; beyond it 503 with Retry-After"),
    "max_connections": (1, 1_000_000, "connections, idle ones too; beyond it 503 with Retry-After, and closed"),
    "timeout": (
        0.1,
        3600,
        "seconds for one request, its body included; beyond it 504, or 408 where that was still to come",
    ),
    "idle_seconds": (0.1, 3600, "seconds for a request's headers, idle before them included; beyond it 408, or closed"),
    "reload_seconds": (0, 86_400, "how often the store is asked for a newer model; 0 means never"),
}
WORDS: dict[str, str] = {
    "model": "tag of the model in the BentoML store (digits:abc); empty means the newest, followed as it changes",
    "api_key": "when set, /predict, /predict_batch and /model ask for it (X-API-Key, or Authorization: Bearer)",
    "cors_origins": "origins that browsers may call from, separated by commas; empty means none",
    "access_log": "which requests are logged: all, errors or off",
}
UNITS = {"k": 1024, "m": MIB, "g": 2**30}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, str]:
    """Every environment variable with what it is for."""
    return {PREFIX + name.upper(): text for name, text in [(n, r[2]) for n, r in RANGES.items()] + list(WORDS.items())}


def load(environment: Mapping[str, str]) -> Settings:
    """Reads and checks all DIGITS_* variables. Raises SettingsError for a wrong value or an unknown name."""
    known = {PREFIX + field.name.upper(): field.name for field in fields(Settings)}
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable.startswith(LINKS) or not text:
            continue
        if not text.strip() and variable != PREFIX + "API_KEY":
            continue
        if variable not in known:
            raise SettingsError(f"{variable} is no setting; the settings are {', '.join(sorted(known))}")
        name = known[variable]
        values[name] = _number(variable, name, text.strip()) if name in RANGES else _word(variable, name, text.strip())
    settings = Settings(**values)
    longest = max(settings.max_bytes, settings.max_batch_bytes) + FORM_BYTES
    if settings.max_buffered_bytes < longest:
        raise SettingsError(
            f"DIGITS_MAX_BUFFERED_BYTES={settings.max_buffered_bytes} is less than one request may have"
            f" ({longest}: the larger of DIGITS_MAX_BYTES and DIGITS_MAX_BATCH_BYTES, and {FORM_BYTES} for its form)"
        )
    return settings


def _number(variable: str, name: str, text: str) -> float:
    low, high, _ = RANGES[name]
    kind = float if name in ("timeout", "idle_seconds", "reload_seconds") else int
    try:
        if name.endswith("_bytes") and (match := re.fullmatch(r"(\d+)\s*([kmgKMG])(i?[bB])?", text)):
            number: float = int(match[1]) * UNITS[match[2].lower()]
        else:
            number = kind(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise SettingsError(f"{variable}={text!r} is not allowed; expected a number from {low:,} to {high:,}")
    return number


def _word(variable: str, name: str, text: str) -> str | tuple[str, ...]:
    if name == "access_log" and text not in ("all", "errors", "off"):
        raise SettingsError(f"{variable}={text!r} is not allowed; expected all, errors or off")
    if name == "model" and not re.fullmatch(r"[a-z0-9._-]+(:[a-z0-9._-]+)?", text):
        raise SettingsError(f"{variable}={text!r} is no tag; expected something like digits:abc123")
    if name == "api_key" and not text:  # of a file with nothing but a line's end: nobody meant an open service
        raise SettingsError(f"{variable} holds nothing but blanks; expected a key, or nothing at all for no key")
    if name == "cors_origins":
        origins = tuple(part.strip() for part in text.split(",") if part.strip())
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise SettingsError(f"{variable}: {origin!r} is no origin; expected something like https://example.org")
        return origins
    return text
