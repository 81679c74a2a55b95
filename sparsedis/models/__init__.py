"""Encoders: from images to features."""

from sparsedis.models.conv4 import Conv4

__all__ = ["Conv4"]
