"""Encoders from images to features."""

from sparsedis.models.conv4 import Conv4
from sparsedis.models.drop_block import DropBlock
from sparsedis.models.encoders import build
from sparsedis.models.factor_encoder import FactorEncoder
from sparsedis.models.r2d2 import R2D2
from sparsedis.models.resnet12 import ResNet12

__all__ = ["R2D2", "Conv4", "DropBlock", "FactorEncoder", "ResNet12", "build"]
