"""Few-shot meta-learning: an encoder trained through the classifiers that are fitted to its features.

``config.TrainConfig`` holds the settings, ``train.train`` runs the outer loop, ``evaluate.evaluate`` tests a learner,
and ``comparison`` trains and compares several.
"""
