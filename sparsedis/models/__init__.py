"""Encoders: from images to features."""

from sparsedis.models.conv4 import Conv4
from sparsedis.models.factor_encoder import FactorEncoder

__all__ = ["Conv4", "FactorEncoder"]
