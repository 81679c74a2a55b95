"""Few-shot data sets, with one reader per format, and the episodes drawn from them."""

from sparsedis.data.dataset import SPLITS, FewShotData
from sparsedis.data.episodes import Episode, Episodes
from sparsedis.data.sources import load

__all__ = ["SPLITS", "Episode", "Episodes", "FewShotData", "load"]
