"""Meta-learning: an encoder trained through the classifiers that tasks fit on its features.

``train.train`` runs the outer loop, ``evaluate.evaluate`` tests a learner, ``grid`` runs many, ``config.TrainConfig``
holds the settings.
"""
