"""Where networks work, and with which numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from digits.device import choose_device, cuda_works, precision
from pipelines.errors import UserError
from pipelines.material import load_data
from pipelines.parameters import Train


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, torch.float32),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
        ({"arm_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_products_are_in_bfloat16_where_the_processor_does_them_faster(
    capabilities: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with precision(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One that is counted, and for which PyTorch has no code."""
    real = torch.ones

    def ones(*size: Any, device: Any = None, **options: Any) -> torch.Tensor:
        if device == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return real(*size, device=device, **options)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", ones)
    cuda_works.cache_clear()
    yield
    cuda_works.cache_clear()


@pytest.mark.usefixtures("old_gpu")
def test_a_gpu_that_cannot_be_used_is_passed_over_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_device("auto").type == "cpu"
    load_data(Train(dataset="digits"))
    assert "WARNING: the GPU can't be used" in capsys.readouterr().out
    with pytest.raises(UserError, match="device=cuda: the CUDA device can't be used; expected auto or cpu"):
        load_data(Train(dataset="digits", device="cuda"))
    load_data(Train(dataset="digits", device="cpu"))  # whoever asks for the CPU hears nothing of it
    assert "GPU" not in capsys.readouterr().out
