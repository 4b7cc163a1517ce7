"""MNIST, or the digits that ship with scikit-learn: verified files in, fixed splits of uint8 pictures out.

Training and validation come from `load`; only `load_test` opens the test files.
"""

from __future__ import annotations

import hashlib
import socket
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DatasetName = Literal["auto", "mnist", "digits"]
VALIDATION_IMAGES = 5_000
SPLIT_SEED = 20_260_000  # The splits never change, whatever the seed of a run.

PATIENCE = 20  # seconds that a mirror may be silent
# Published at http://yann.lecun.com/exdb/mnist/ and mirrored by torchvision, which knows the md5 only.
MNIST_FILES = {
    "train": (
        ("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        ("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        ("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
}


class DataError(RuntimeError):
    """The data cannot be used; the message names the file and what to do."""


class DataMissing(DataError):
    """The data is neither there nor to be downloaded."""


@dataclass(frozen=True)
class Split:
    """Pictures uint8 (n, 28, 28), white ink on black, and their labels int64 (n,), 0 to 9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Split:
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Data:
    """What a model is trained and chosen on, and the hash that says so.

    `fingerprint` is the sha256 of all pictures and labels of both splits, in order; `bundled` is true for the 1,797
    digits of scikit-learn; `limit` is the number of training pictures that was asked for, or None for all; `missing` is
    why it is not MNIST, where that was tried.
    """

    name: Literal["mnist", "digits"]
    train: Split
    validation: Split
    fingerprint: str
    root: Path | None
    limit: int | None = None
    missing: str = ""

    @property
    def bundled(self) -> bool:
        return self.name == "digits"


def load(dataset: DatasetName, root: Path, *, limit: int | None = None) -> Data:
    """Training and validation pictures: 55,000 and 5,000 of MNIST, or 1,257 and 180 of scikit-learn's digits.

    Args:
        dataset: "mnist", "digits" (scikit-learn's), or "auto": MNIST, and scikit-learn's where MNIST is neither in
            `root` nor can be downloaded.
        root: torchvision's root, the folder that holds `MNIST/raw/*.gz`.
        limit: use only so many training pictures, and a tenth as many (at least 100) for validation.

    Raises:
        DataMissing: MNIST is not there and cannot be downloaded.
        DataError: a file is damaged. A damaged file is never used, nor replaced by the fallback.
    """
    if dataset == "digits":
        return _data("digits", _bundled("train"), None, limit)
    try:
        return _data("mnist", _mnist("train", root), root, limit)
    except DataMissing as error:
        if dataset == "mnist":
            raise
        return replace(_data("digits", _bundled("train"), None, limit), missing=str(error))


def fetch_test(data: Data) -> None:
    """Sees to it that the files of the test pictures are there and whole, long before they are read.

    Raises:
        DataError: as for `load`.
    """
    if data.root is not None:
        _fetch("test", data.root)


def load_test(data: Data) -> Split:
    """The test pictures that belong to `data`: 10,000 of MNIST or 360 of scikit-learn's. Read once, at the very end.

    Raises:
        DataError: as for `load`.
    """
    test = _bundled("test") if data.root is None else _mnist("test", data.root)
    if data.limit is not None:
        test = _subset(test, max(min(data.limit, 200), data.limit // 5))
    return test


def _data(name: Literal["mnist", "digits"], pictures: Split, root: Path | None, limit: int | None) -> Data:
    from sklearn.model_selection import train_test_split

    size = VALIDATION_IMAGES if name == "mnist" else 180
    train, validation = train_test_split(
        np.arange(len(pictures)), test_size=size, stratify=pictures.labels, random_state=SPLIT_SEED
    )
    splits = pictures.take(train), pictures.take(validation)
    if limit is not None:
        splits = _subset(splits[0], limit), _subset(splits[1], max(100, limit // 10))
    digest = hashlib.sha256()
    for split in splits:
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels).data)
    return Data(name, splits[0], splits[1], digest.hexdigest(), root, limit)


def _subset(split: Split, count: int) -> Split:
    """The first `count` pictures of a fixed shuffle."""
    if count >= len(split):
        return split
    return split.take(np.random.default_rng(SPLIT_SEED).permutation(len(split))[:count])


def _mnist(part: Literal["train", "test"], root: Path) -> Split:
    from torchvision.datasets.mnist import read_image_file, read_label_file
    from torchvision.datasets.utils import extract_archive

    (images_name, _), (labels_name, _) = MNIST_FILES[part]
    raw = _fetch(part, root)
    # Unpacked in a temporary folder: the user's may be read-only, and what is unpacked there later goes unverified.
    with tempfile.TemporaryDirectory(prefix="mnist-") as unpacked:
        images = read_image_file(extract_archive(str(raw / images_name), unpacked)).numpy()
        labels = read_label_file(extract_archive(str(raw / labels_name), unpacked)).numpy()
    return Split(images, labels.astype(np.int64))


def _fetch(part: Literal["train", "test"], root: Path) -> Path:
    """The folder in which the files of that part are, and are what they should be."""
    raw = raw_folder(root)
    for name, sha256 in MNIST_FILES[part]:
        if not (raw / name).is_file():
            _download(name, raw)
        _verify(raw / name, sha256)
    return raw


def raw_folder(root: Path) -> Path:
    """Where torchvision keeps MNIST's files under its `root`."""
    return root / "MNIST" / "raw"


def is_there(root: Path) -> bool:
    """Whether MNIST is in a folder, whole or damaged, so that nothing has to be downloaded to train."""
    return all((raw_folder(root) / name).is_file() for name, _ in MNIST_FILES["train"])


def _download(name: str, folder: Path) -> None:
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import download_url

    checksums = dict(MNIST.resources)
    problems = []
    patience = socket.getdefaulttimeout()
    for mirror in MNIST.mirrors:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as half:  # a name has whole files only
                socket.setdefaulttimeout(PATIENCE)  # torchvision would wait for ever
                download_url(f"{mirror}{name}", half, filename=name, md5=checksums[name])
                Path(half, name).replace(folder / name)
            return
        except (OSError, RuntimeError) as problem:
            problems.append(f"{mirror}: {problem}")
        finally:
            socket.setdefaulttimeout(patience)
    raise DataMissing(
        f"MNIST's {name} is not in {folder} and could not be downloaded ({'; '.join(problems)}). Put MNIST's four .gz "
        "files there, name the folder above MNIST/raw with -P data_dir= or MNIST_ROOT, or use -P dataset=digits."
    )


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        raise DataError(
            f"{path} is damaged: its {path.stat().st_size} bytes have sha256 {actual[:12]}…, expected {sha256[:12]}…. "
            "It is not used. Delete it and it is downloaded again."
        )


def small_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """scikit-learn's 1,797 digits, uint8 (n, 8, 8) of 0 to 16, white ink on black, and their labels (n,).

    They are by other writers than MNIST's, from another scanner, and fill their pictures.
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    return bundle.images.astype(np.uint8), bundle.target.astype(np.int64)


def _bundled(part: Literal["train", "test"]) -> Split:
    """scikit-learn's digits, enlarged to MNIST's format; one in five is for the test."""
    import cv2
    from sklearn.model_selection import train_test_split

    smalls, labels = small_digits()
    kept, held_out = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=SPLIT_SEED)
    chosen = kept if part == "train" else held_out
    images = np.zeros((len(chosen), 28, 28), np.uint8)
    for image, small in zip(images, smalls[chosen], strict=True):
        enlarged = cv2.resize(small.astype(np.float32) * (255 / 16), (20, 20), interpolation=cv2.INTER_CUBIC)
        image[4:24, 4:24] = np.clip(enlarged, 0, 255).astype(np.uint8)
    return Split(images, labels[chosen])
