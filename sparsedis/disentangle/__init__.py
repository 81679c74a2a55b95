"""Disentanglement: encoders trained through sparse regressions, and how well their features recover the factors."""
