"""On what, and with which numbers, networks work here: a GPU that PyTorch can use, or else the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch


def choose_device(device: str) -> torch.device:
    """ "auto" is CUDA where it works, and the CPU otherwise."""
    if device == "auto":
        return torch.device("cuda" if cuda_works() else "cpu")
    return torch.device(device)


@cache
def cuda_works() -> bool:
    """Whether there is a GPU that does what it is asked to; PyTorch has no code for old ones, and counts them all the
    same."""
    if not torch.cuda.is_available():
        return False
    try:
        return int(torch.ones(1, device="cuda").add(1)) == 2
    except (RuntimeError, torch.cuda.DeferredCudaCallError):  # no code for it, or no memory left on it
        return False


def precision(device: torch.device) -> AbstractContextManager[object]:
    """A context in which networks work in the device's `number_format`."""
    wanted = number_format(device)
    return nullcontext() if wanted == torch.float32 else torch.autocast(device.type, dtype=wanted)


def number_format(device: torch.device) -> torch.dtype:
    """bfloat16 where it is faster: on GPUs that have it, and on CPUs that multiply it faster than float32
    (docs/log.md)."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)  # since Ampere
    else:
        fast = device.type == "cpu" and _cpu_multiplies_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    if capabilities.get("amx_bf16") or capabilities.get("arm_bf16"):
        return True
    # Intel's cores take at least two cycles for what AMD's do in one: there float32 is faster, but for AMX.
    return bool(capabilities.get("avx512_bf16")) and not str(capabilities.get("cpu_name", "")).startswith("Intel")
