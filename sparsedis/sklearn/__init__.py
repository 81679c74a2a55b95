"""scikit-learn estimators built on the solvers: exact, certified, with feature selection. See docs/sklearn.md.

Requires scikit-learn 1.6 or later: ``pip install 'sparsedis[sklearn]'``.
"""

from sparsedis.extras import explained

try:
    from sparsedis.sklearn.classifiers import GroupLassoLogisticRegression, GroupLassoSVC
    from sparsedis.sklearn.cross_validation import GroupLassoSVCCV
    from sparsedis.sklearn.path import SVCPath, svc_path
except ImportError as error:
    raise ImportError(f"sparsedis.sklearn: {explained(error, 'sklearn')}") from error

__all__ = ["GroupLassoLogisticRegression", "GroupLassoSVC", "GroupLassoSVCCV", "SVCPath", "svc_path"]
