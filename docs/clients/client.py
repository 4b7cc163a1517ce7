"""Sends pictures to the service with httpx: `python client.py http://localhost:3000 seven.jpg three.png`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import httpx


def headers() -> dict[str, str]:
    """The API key, where the service asks for one."""
    key = os.environ.get("API_KEY")
    return {"X-API-Key": key} if key else {}


def predict(client: httpx.Client, picture: Path) -> dict[str, Any]:
    """One picture, as the raw body. The type may be octet-stream: the content decides, not the name."""
    answer = client.post("/predict", content=picture.read_bytes(), headers={"Content-Type": "application/octet-stream"})
    return answer.json()


def predict_batch(client: httpx.Client, pictures: list[Path]) -> list[dict[str, Any]]:
    """Many pictures in one request: a result or an error for each, in order."""
    files = [("images", (picture.name, picture.read_bytes())) for picture in pictures]
    answer = client.post("/predict_batch", files=files)
    if answer.is_error:
        raise SystemExit(answer.json()["error"]["message"])
    return answer.json()["results"]


def show(name: str, result: dict[str, Any]) -> None:
    if "error" in result:
        print(f"{name}: {result['error']['code']}: {result['error']['message']}")
    else:
        refused = "" if result["accepted"] else ", not accepted"
        print(f"{name}: {result['digit']} ({result['probability']:.2%}{refused})")


def main() -> None:
    url, *names = sys.argv[1:]
    pictures = [Path(name) for name in names]
    with httpx.Client(base_url=url, headers=headers(), timeout=60) as client:
        results = predict_batch(client, pictures) if len(pictures) > 1 else [predict(client, pictures[0])]
    for picture, result in zip(pictures, results, strict=True):
        show(picture.name, result)


if __name__ == "__main__":
    main()
