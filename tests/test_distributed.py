"""Two processes that train together (gloo): their pictures are one process's, and so is, nearly, what they learn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from digits import distributed
from digits.data import Data, Split, load
from digits.distributed import ALONE, RankError, Ranks
from digits.fit import Recipe, TrainingSet, _Batches, fit, predict_logits
from digits.network import DigitNet
from tests.ports import free_port

QUICK = Recipe(batch_size=64, strength=0.3, disturbed=0.1, dropout=0.0)


def still(images: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return images


@pytest.mark.parametrize("count", [2, 3])
def test_the_rows_of_all_ranks_together_are_the_batch_of_one_process(
    bundled, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("digits.fit.augment", still)
    noise = np.random.default_rng(0).integers(0, 256, (100, 28, 28), dtype=np.uint8)
    photographs = Split(bundled.train.images[:90], bundled.train.labels[:90])
    train = TrainingSet(bundled.train, photographs, noise)

    def batches(ranks: Ranks) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return _Batches(QUICK, train, torch.device("cpu"), 7, ranks).epoch(2)

    parts = [batches(Ranks(rank, count)) for rank in range(count)]
    for (images, labels), *shares in zip(batches(ALONE), *parts, strict=True):
        whole = sorted(zip(images.flatten(1).tolist(), labels.tolist(), strict=True))
        together = [pair for some, of in shares for pair in zip(some.flatten(1).tolist(), of.tolist(), strict=True)]
        assert sorted(together) == whole
        assert max(len(of) for _, of in shares) - min(len(of) for _, of in shares) <= 3  # one for each kind


def test_each_rank_disturbs_its_pictures_in_its_own_way(bundled) -> None:
    one = Split(np.repeat(bundled.train.images[:1], 256, axis=0), np.repeat(bundled.train.labels[:1], 256))
    first, second = (
        next(_Batches(QUICK, TrainingSet(one), torch.device("cpu"), 0, Ranks(rank, 2)).epoch(1))[0] for rank in (0, 1)
    )
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_the_ranks_average_is_the_mean_over_the_batch_even_where_their_parts_differ() -> None:
    losses = torch.arange(7.0)
    parts = [losses[rank::3] for rank in range(3)]
    weighed = [Ranks(rank, 3).weigh(part.mean(), len(part), 7) for rank, part in enumerate(parts)]
    assert torch.stack(weighed).mean().item() == pytest.approx(losses.mean().item())


def _trained(data: Data, ranks: Ranks) -> DigitNet:
    some = TrainingSet(data.train.take(np.arange(640)))
    return fit(QUICK, some, data.validation, epochs=3, seed=0, device="cpu", ranks=ranks)


def _train(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with distributed.joined("cpu") as ranks:
        net = _trained(load("digits", Path(folder)), ranks)
    torch.save(net.state_dict(), f"{folder}/{rank}.pt")


def test_two_processes_learn_what_one_learns_and_end_with_the_same_weights(bundled, tmp_path: Path) -> None:
    multiprocessing.spawn(_train, (free_port(), str(tmp_path)), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0] if "running" not in name)
    alone = _trained(bundled, ALONE)
    accuracies = []
    for weights in (alone.state_dict(), both[0]):
        alone.load_state_dict(weights)
        right = predict_logits(alone, bundled.validation.images).argmax(1) == bundled.validation.labels
        accuracies.append(right.mean())
    noise = np.sqrt(accuracies[0] * (1 - accuracies[0]) / len(bundled.validation))
    assert min(accuracies) > 0.8
    assert abs(accuracies[0] - accuracies[1]) < 4 * max(noise, 0.01)


def test_more_ranks_than_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "test", "RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RankError, match="rank 2 of this machine has no GPU: there are 2"), distributed.joined():
        pass


def _join(rank: int, port: int, folder: str) -> None:
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.cuda.is_available = lambda: rank == 1  # type: ignore[method-assign]
    torch.cuda.device_count = lambda: 1
    torch.cuda.set_device = lambda _: None
    distributed.cuda_works = lambda: True  # type: ignore[assignment]
    try:
        with distributed.joined():
            pass
    except RankError as error:
        Path(folder, str(rank)).write_text(str(error))


def test_machines_of_which_only_some_have_a_gpu_do_not_wait_for_each_other(tmp_path: Path) -> None:
    multiprocessing.spawn(_join, (free_port(), str(tmp_path)), nprocs=2)
    for rank in ("0", "1"):
        assert (
            (tmp_path / rank).read_text().startswith("ranks 0 can use no GPU and the others can: expected device=cpu")
        )
