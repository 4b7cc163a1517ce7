"""The service's settings: environment variables named DIGITS_* in, one checked and frozen object out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

PREFIX = "DIGITS_"
KEY = "DIGITS_API_KEY"
# What Kubernetes tells every pod beside a Service called digits, or digits-something.
LINK = re.compile(r"DIGITS_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
LINK_BY_ADDRESS = re.compile(r"DIGITS_(\w+_)?PORT=(tcp|udp|sctp)://.*", re.IGNORECASE)
MIB = 2**20
FORM_BYTES = 4096  # boundaries and headers around one picture


class SettingsError(ValueError):
    """A setting that can't be used; the message is one line that names the variable, its value and what is allowed."""


def _text(about: str, default: Any = "") -> Any:
    return field(default=default, metadata={"about": about})


def _number_of(about: str, default: float, low: float, high: float) -> Any:
    """A setting that is a number from `low` to `high`, whole if its default is."""
    return field(default=default, metadata={"about": about, "range": (low, high)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every limit is per worker. The table of docs/service.md is made from this."""

    workers: int = _number_of("processes; 0 means one for each core that may be used, at most 8", 0, 0, 256)
    threads: int = _number_of("threads that decode large pictures and batches", 2, 1, 64)
    model_threads: int = _number_of("threads inside one call of the model", 1, 1, 64)
    max_batch_size: int = _number_of("pictures the model sees at once, at most; 1 means no batching", 64, 1, 4096)
    max_bytes: int = _number_of("bytes of one picture", 20 * MIB, 64, 2**30)
    max_pixels: int = _number_of("pixels of one picture", 100_000_000, 784, 2_000_000_000)
    max_batch_items: int = _number_of("pictures in one /predict_batch", 256, 1, 10_000)
    max_batch_bytes: int = _number_of("bytes of one /predict_batch", 64 * MIB, 64, 2**31)
    max_buffered_bytes: int = _number_of(
        "bytes of all request bodies held at once; beyond it 503", 256 * MIB, 1024, 2**34
    )
    max_concurrency: int = _number_of(
        "requests worked on, their bodies being there; beyond it 503 with Retry-After", 256, 1, 100_000
    )
    max_connections: int = _number_of(
        "connections, idle ones too; beyond it 503 with Retry-After, and closed", 16_384, 1, 1_000_000
    )
    timeout: float = _number_of(
        "seconds for one request, its body included; beyond it 504, or 408 where that was still to come",
        30.0,
        0.1,
        3600,
    )
    idle_seconds: float = _number_of(
        "seconds for a request's headers, idle before them included; beyond it 408, or closed", 15.0, 0.1, 3600
    )
    reload_seconds: float = _number_of("how often the store is asked for a newer model; 0 means never", 5.0, 0, 86_400)
    model: str = _text(
        "tag of the model in the BentoML store (digits:abc); empty means the newest, followed as it changes"
    )
    api_key: str = _text(
        "when set, /predict, /predict_batch and /model ask for it (X-API-Key, or Authorization: Bearer)"
    )
    cors_origins: tuple[str, ...] = _text(
        "origins that browsers may call from (https://example.org), separated by commas; * means any, empty none", ()
    )
    access_log: str = _text("which requests are logged: all, errors or off", "errors")

    def __repr__(self) -> str:  # a key must not end up in a log
        shown = (f"{f.name}={'***' if f.name == 'api_key' else getattr(self, f.name)!r}" for f in fields(self))
        return f"Settings({', '.join(shown)})"


UNITS = {"k": 1024, "m": MIB, "g": 2**30}


def by_variable() -> dict[str, Field[Any]]:
    """Every environment variable and its setting, whose metadata say what it is `about` and the `range` of a number."""
    return {PREFIX + setting.name.upper(): setting for setting in fields(Settings)}


def load(environment: Mapping[str, str]) -> Settings:
    """Reads and checks all DIGITS_* variables. Raises SettingsError for a wrong value or an unknown name."""
    known = by_variable()
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        if LINK.fullmatch(variable) or LINK_BY_ADDRESS.fullmatch(f"{variable}={text}"):
            continue
        if not text.strip():
            if text and variable == KEY:  # of a file with nothing but a line's end: nobody meant an open service
                raise SettingsError(f"{KEY} holds nothing but blanks; expected a key, or nothing at all for no key")
            continue
        if variable not in known:
            raise SettingsError(f"{variable} is no setting; the settings are {', '.join(sorted(known))}")
        read = _number if "range" in known[variable].metadata else _word
        values[known[variable].name] = read(variable, known[variable], text.strip())
    settings = Settings(**values)
    longest = max(settings.max_bytes, settings.max_batch_bytes) + FORM_BYTES
    if settings.max_buffered_bytes < longest:
        raise SettingsError(
            f"DIGITS_MAX_BUFFERED_BYTES={settings.max_buffered_bytes} is less than one request may have"
            f" ({longest}: the larger of DIGITS_MAX_BYTES and DIGITS_MAX_BATCH_BYTES, and {FORM_BYTES} for its form)"
        )
    return settings


def _number(variable: str, setting: Field[Any], text: str) -> float:
    low, high = setting.metadata["range"]
    try:
        if setting.name.endswith("_bytes") and (match := re.fullmatch(r"(\d+)\s*([kmgKMG])(i?[bB])?", text)):
            number: float = int(match[1]) * UNITS[match[2].lower()]
        else:
            number = float(text) if isinstance(setting.default, float) else int(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise SettingsError(f"{variable}={text!r} is not allowed; expected a number from {low:,} to {high:,}")
    return number


def _word(variable: str, setting: Field[Any], text: str) -> str | tuple[str, ...]:
    name = setting.name
    if name == "access_log" and text not in ("all", "errors", "off"):
        raise SettingsError(f"{variable}={text!r} is not allowed; expected all, errors or off")
    if name == "model" and not re.fullmatch(r"[a-z0-9._-]+(:[a-z0-9._-]+)?", text):
        raise SettingsError(f"{variable}={text!r} is no tag; expected something like digits:abc123")
    if name == "cors_origins":
        origins = tuple(part.strip() for part in text.split(",") if part.strip())
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.:\[\]_-]+", origin):
                raise SettingsError(f"{variable}: {origin!r} is no origin; expected something like https://example.org")
        return origins
    return text
