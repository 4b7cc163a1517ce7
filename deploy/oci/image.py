"""What the OCI image is made of. In: the Bento while `bentoml build` freezes it. Out: its Dockerfile, in two stages.

BentoML's own Dockerfile leaves its installer in the image and knows no labels. It renders the commands of
`bentoml.images.Image` line by line, so a command that goes on in Dockerfile instructions adds what is missing: private
package indexes as build arguments that stay behind in the first stage, and a second stage that takes over the
environment alone.
"""

# mypy: disable-error-code="misc, has-type"
# (BentoML's Image has no types to inherit)

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import attrs
from bentoml.images import Image

from deploy.revision import PROJECT, source_revision

# A build that needs a private index says `bentoml containerize digits:latest --opt build-arg=UV_DEFAULT_INDEX=…`.
# Arguments end with the stage that declares them: neither the image nor its history shows them.
BUILD_ARGUMENTS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX")

# What the service never loads: ONNX Runtime's C library (35 MB; its Python module carries its own copy) and converters,
# Pillow's decoder of a format that is not accepted and its fonts, tests, stubs, and the colours of 500 languages
# (Python's stay: a traceback is printed in them). 432 MB become 345. Without the symbols of the extension modules it is
# 30 less; what auditwheel has packed beside them (*.libs) is left as it is, and a base without `strip` that has no apt
# either makes the same image with them.
TRIM = """cd /app/.venv/lib/python3*/site-packages \\
 && rm -rf onnxruntime/capi/libonnxruntime.so* onnxruntime/transformers onnxruntime/tools onnxruntime/quantization \\
    onnxruntime/datasets numpy/f2py numpy/distutils tornado/test \\
    PIL/_avif.* PIL/_imagingft.* pillow.libs/libavif-* pillow.libs/libharfbuzz-* pillow.libs/libfreetype-* \\
 && find . -depth -type d -name tests -exec rm -rf {} + \\
 && find . -type f \\( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' -o -name '*.h' \\) -delete \\
 && find pygments/lexers -type f ! -name '__init__*' ! -name '_mapping*' ! -name 'python*' -delete \\
 && { command -v strip || { apt-get update && apt-get install --yes --no-install-recommends binutils; } || true; } \\
    >/dev/null 2>&1 \\
 && if command -v strip; then find . -type f -name '*.so' ! -path '*.libs/*' -exec strip --strip-unneeded {} +; fi"""

# 1034 is the user that BentoML makes. Its store is only read, so what BentoML writes at run time goes to /tmp,
# the one place that stays writable under `--read-only --tmpfs /tmp`.
# Bytecode is made here, as nothing can be written later: of our own files (unchecked, since BentoML copies the sources
# once more after this), and, as the official base image has none, of the modules of Python that a start imports.
SECOND_STAGE = """FROM {base}
ENV LANG=C.UTF-8 LC_ALL=C.UTF-8 PYTHONIOENCODING=UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \\
    BENTO_PATH=/home/bentoml/bento BENTOML_HOME=/tmp/bentoml BENTOML_CONTAINERIZED=true BENTOML_DO_NOT_TRACK=true \\
    VIRTUAL_ENV=/app/.venv PATH=/app/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY --from=base-container /etc/passwd /etc/group /etc/
COPY --from=base-container /app /app
WORKDIR /home/bentoml/bento
COPY src src
RUN python -m compileall -q --invalidation-mode unchecked-hash src \\
 && PYTHONDONTWRITEBYTECODE= python -c "import {imports}"
LABEL {labels}"""

# Together they import what `bentoml serve` and its workers import.
IMPORTS = (
    "_bentoml_impl.server.app",
    "_bentoml_impl.server.serving",
    "_bentoml_impl.worker.service",
    "bentoml_cli.cli",
    "bentoml_cli.serve",
    "bentoml.serving",
    "circus.arbiter",
    "cv2",
    "onnxruntime",
    "PIL.Image",
    "starlette.middleware.cors",
    "starlette.staticfiles",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)


@attrs.define
class ServingImage(Image):
    """`bentoml.images.Image` without BentoML's build tools, with OCI labels, in two stages.

    Written for the template of BentoML 1.4; `make image-test` builds it and looks inside.
    """

    distro: str = "none"  # every other value installs 538 MB of build tools
    models: tuple[str, ...] = ()  # full tags of the models that the Bento packs

    def freeze(self, bento_fs: Path, envs: list[Any], platform_: str | None = None) -> Any:
        arguments = "\n".join(f"ARG {name}" for name in BUILD_ARGUMENTS)
        self.commands = [*self.commands, f"true\n{arguments}"]
        labels = " \\\n      ".join(f"{key}={json.dumps(value)}" for key, value in image_labels(self.models).items())
        self.post_commands = [
            *self.post_commands,
            TRIM + "\n" + SECOND_STAGE.format(base=self.base_image, labels=labels, imports=", ".join(IMPORTS)),
        ]
        return super().freeze(bento_fs, envs, platform_)


def image_labels(models: tuple[str, ...]) -> dict[str, str]:
    """Labels with the names of the OCI image specification, and the tags of the models that are built in."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return {
        "org.opencontainers.image.title": "Digits",
        "org.opencontainers.image.description": project["description"],
        "org.opencontainers.image.version": project["version"],
        "org.opencontainers.image.revision": source_revision(),
        "org.opencontainers.image.licenses": project["license"],
        "digits.model": " ".join(models),
    }
