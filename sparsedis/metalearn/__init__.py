"""Few-shot meta-learning: an encoder trained through the classifiers that tasks fit on its features.

``config.TrainConfig`` holds the settings, ``train.train`` runs the outer loop, ``evaluate.evaluate`` tests a learner,
``comparison`` trains and compares many.
"""
