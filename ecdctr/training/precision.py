"""Which processors multiply matrices of bfloat16 themselves."""

from __future__ import annotations

import torch

# names of torch.cpu.get_capabilities(), on x86 and on ARM
BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def multiplies_bfloat16(device: str) -> bool:
    """Say whether products of bfloat16 are made by the hardware of `device` ("cpu", "cuda").

    Elsewhere torch makes them one number at a time: right, and slower than float32 by far.
    """
    if device != "cpu":
        return True
    capable = torch.cpu.get_capabilities()
    return any(capable.get(name) for name in BFLOAT16)
