"""`make dist`: the source in, dist/digits-VERSION.tar.gz, the same as .zip and SHA256SUMS out.

What git tracks goes in, as it is now, and REVISION, the commit it was made from. The archives depend on the content
alone: the same tree makes the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

from deploy.revision import PROJECT, source_revision


def source_files() -> dict[str, Path]:
    """Path in the archive → file, sorted. Raises SystemExit outside a git checkout."""
    listing = ["git", "-C", str(PROJECT), "ls-files", "-z"]
    done = subprocess.run(listing, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"make dist needs a git checkout to know what belongs in: {done.stderr.strip()}")
    names = sorted(name for name in done.stdout.split("\0") if name and (PROJECT / name).is_file())
    return {name: PROJECT / name for name in names}


def pack(folder: Path) -> list[Path]:
    """Writes both archives and SHA256SUMS into `folder`, each whole or not at all. Gives the three files."""
    members = {name: (file.read_bytes(), os.access(file, os.X_OK)) for name, file in source_files().items()}
    members["REVISION"] = (f"{source_revision()}\n".encode(), False)
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    files = archives(f"digits-{version}", members)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in {**files, "SHA256SUMS": sums.encode()}.items():
        part = folder / f".{name}.part"
        part.write_bytes(content)
        written.append(part.replace(folder / name))
    return written


def archives(top: str, members: dict[str, tuple[bytes, bool]]) -> dict[str, bytes]:
    """Both archives by name, from the folder's name and path → (content, executable)."""
    return {f"{top}.tar.gz": _tarball(top, members), f"{top}.zip": _zip(top, members)}


def _tarball(top: str, members: dict[str, tuple[bytes, bool]]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, (content, executable) in members.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mode = len(content), 0o755 if executable else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), mtime=0)


def _zip(top: str, members: dict[str, tuple[bytes, bool]]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (content, executable) in members.items():
            entry = zipfile.ZipInfo(f"{top}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if executable else 0o100644) << 16
            archive.writestr(entry, content)
    return raw.getvalue()


if __name__ == "__main__":
    for path in pack(Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / "dist"):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
