"""Sends pictures to the service with BentoML's own client: `python bento_client.py http://localhost:3000 seven.jpg`.

The client finds `predict` in the service's /schema.json and sends each picture as a form, and a key, where the service
asks for one, as Authorization.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException


def main() -> None:
    url, *names = sys.argv[1:]
    with bentoml.SyncHTTPClient(url, token=os.environ.get("API_KEY")) as client:
        for name in names:
            try:
                answer = client.predict(image=Path(name))
            except BentoMLException as error:  # its text is the JSON of the error
                print(f"{Path(name).name}: {error}")
                continue
            refused = "" if answer["accepted"] else ", not accepted"
            print(f"{Path(name).name}: {answer['digit']} ({answer['probability']:.2%}{refused})")


if __name__ == "__main__":
    main()
