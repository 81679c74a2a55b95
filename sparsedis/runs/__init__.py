"""Code that all training runs share: settings, outer loop, checkpoints, figures, command line.

``config.RunConfig`` is the base class of a run's settings, ``loop.Loop`` that of its outer loop, and ``folder`` names
the files that a run writes. This package does not depend on few-shot learning or disentanglement.
"""
