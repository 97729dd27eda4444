"""What turns the network's features into a logit.

Each backbone is one small file that names its paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecdctr.models.backbones.dcnv2 import DcnV2
from ecdctr.models.backbones.deepfm import DeepFm
from ecdctr.models.backbones.features import Features, Shape
from ecdctr.models.backbones.masknet import MaskNet
from ecdctr.models.backbones.mlp import Mlp
from ecdctr.models.backbones.mmoe import Mmoe
from ecdctr.models.backbones.ple import Ple
from ecdctr.models.backbones.star import Star

if TYPE_CHECKING:
    from torch import nn

    from ecdctr.config import Network

__all__ = ["Features", "Shape", "build_backbone"]


def build_backbone(shape: Shape, settings: Network) -> nn.Module:
    """Return the configured backbone: Features → logits [B]."""
    match settings.backbone:
        case "mlp":
            return Mlp(shape, settings.hidden)
        case "deepfm":
            return DeepFm(shape, settings.hidden)
        case "dcnv2":
            return DcnV2(shape, settings.hidden)
        case "masknet":
            return MaskNet(shape, settings.hidden)
        case "star":
            return Star(shape, settings.hidden)
        case "mmoe":
            return Mmoe(shape, settings.hidden, settings.experts)
        case "ple":
            return Ple(shape, settings.hidden, settings.experts)
