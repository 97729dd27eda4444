"""Which processors multiply matrices of bfloat16 themselves."""

from __future__ import annotations

import logging

import torch

LOG = logging.getLogger(__name__)
# names of torch.cpu.get_capabilities(), on x86 and on ARM
BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def multiplies_bfloat16() -> bool:
    """Say whether what trains here, a GPU or the processor, has products of bfloat16.

    Elsewhere torch makes them one number at a time: right, and slower than float32 by far.
    """
    if torch.cuda.is_available():
        return True
    capable = torch.cpu.get_capabilities()
    return any(capable.get(name) for name in BFLOAT16)


def warn_where_slow(precision: str) -> None:
    """Say before a training that its precision is a bad choice here."""
    if precision == "bfloat16" and not multiplies_bfloat16():
        LOG.warning(
            "precision: bfloat16 on a processor that has no products of bfloat16 (AVX512-BF16, "
            "AMX or ARM's bf16): training takes many times as long as with float32, which is the "
            "default."
        )
