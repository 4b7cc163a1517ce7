"""Verified files, fixed splits, and a test set that only one function opens."""

import gzip
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from digits import data
from digits.data import DataError, DataMissing, fetch_test, load, load_test

needs_mnist = pytest.mark.skipif("MNIST_ROOT" not in os.environ, reason="MNIST_ROOT is not set: no MNIST here")


@pytest.fixture
def mnist_copy(tmp_path) -> Path:
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(Path(os.environ["MNIST_ROOT"]) / "MNIST" / "raw", raw)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(url, *_arguments, **_keywords):
        raise OSError(f"no network for {url}")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)


@needs_mnist
def test_mnist_is_split_into_55000_and_5000_with_every_digit_in_proportion():
    mnist = load("mnist", Path(os.environ["MNIST_ROOT"]))
    assert (len(mnist.train), len(mnist.validation)) == (55_000, 5_000)
    assert mnist.train.images.shape == (55_000, 28, 28)
    assert mnist.train.images.dtype == np.uint8
    shares = [np.bincount(split.labels, minlength=10) / len(split) for split in (mnist.train, mnist.validation)]
    assert np.abs(shares[0] - shares[1]).max() < 0.001
    assert not mnist.bundled


@needs_mnist
def test_training_and_validation_never_open_the_test_files(mnist_copy, no_network):
    for file in (mnist_copy / "MNIST" / "raw").glob("t10k*"):
        file.unlink()
    mnist = load("mnist", mnist_copy, limit=500)
    assert len(mnist.train) == 500
    with pytest.raises(DataMissing, match="t10k-images"):
        load_test(mnist)


@needs_mnist
def test_the_test_set_has_10000_pictures_and_none_of_training():
    mnist = load("mnist", Path(os.environ["MNIST_ROOT"]))
    test = load_test(mnist)
    assert len(test) == 10_000
    seen = {image.tobytes() for image in mnist.train.images}
    assert not any(image.tobytes() in seen for image in test.images)


@needs_mnist
@pytest.mark.parametrize("damage", ["truncated", "altered"])
@pytest.mark.parametrize("dataset", ["mnist", "auto"])
def test_a_damaged_file_is_named_and_not_used(mnist_copy, no_network, damage, dataset):
    file = mnist_copy / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        del content[-100:]
    else:
        content = bytearray(gzip.compress(b"\0" * 60_008))
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz is damaged"):
        load(dataset, mnist_copy)


@needs_mnist
def test_nothing_is_written_into_the_users_folder(mnist_copy):
    before = sorted(mnist_copy.rglob("*"))
    load("mnist", mnist_copy, limit=100)
    assert sorted(mnist_copy.rglob("*")) == before


def test_without_mnist_and_network_auto_falls_back_and_mnist_says_what_to_do(tmp_path, no_network):
    fallen = load("auto", tmp_path)
    assert fallen.bundled
    assert "could not be downloaded" in fallen.missing
    with pytest.raises(DataMissing, match="data_dir"):
        load("mnist", tmp_path)


def test_the_bundled_digits_are_split_without_overlap_and_look_like_mnist(tmp_path):
    bundled = load("digits", tmp_path)
    test = load_test(bundled)
    parts = (bundled.train, bundled.validation, test)
    assert [len(part) for part in parts] == [1257, 180, 360]
    pictures = [image.tobytes() for part in parts for image in part.images]
    assert len(set(pictures)) > 1790  # a handful of the 1,797 are equal to each other
    assert bundled.train.images[:, :4].max() == 0
    assert bundled.train.images.max() > 200


def test_the_fingerprint_changes_with_the_data_and_with_nothing_else(tmp_path):
    whole, again, less = (load("digits", tmp_path, limit=limit) for limit in (None, None, 300))
    assert whole.fingerprint == again.fingerprint != less.fingerprint


def test_half_a_download_is_no_file(tmp_path, monkeypatch):
    patience = []

    def break_off(_url, folder, filename, **_keywords):
        (Path(folder) / filename).write_bytes(b"half")
        patience.append(socket.getdefaulttimeout())
        raise OSError("connection reset")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", break_off)
    with pytest.raises(DataMissing, match="connection reset"):
        load("mnist", tmp_path)
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []
    assert all(patience), "a mirror that is silent is not waited for"
    assert socket.getdefaulttimeout() is None


@needs_mnist
def test_test_files_that_are_damaged_are_found_before_the_training(mnist_copy):
    mnist = load("mnist", mnist_copy)
    fetch_test(mnist)
    (mnist_copy / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"half")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is damaged"):
        fetch_test(mnist)


def test_published_checksums_agree_with_torchvisions_list():
    from torchvision.datasets import MNIST

    ours = {name for part in data.MNIST_FILES.values() for name, _ in part}
    assert ours == {name for name, _ in MNIST.resources}
