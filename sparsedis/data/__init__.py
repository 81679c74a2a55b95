"""Few-shot data sets and the episodes drawn from them."""

from sparsedis.data.dataset import SPLITS, FewShotData, load
from sparsedis.data.episodes import Episode, Episodes

__all__ = ["SPLITS", "Episode", "Episodes", "FewShotData", "load"]
