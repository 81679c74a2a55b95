"""Disentanglement: an encoder trained through sparse regressions, and how well its features are the true factors."""
