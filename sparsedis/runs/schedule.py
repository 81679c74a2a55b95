"""Learning-rate schedules."""

from __future__ import annotations

import math


def cosine(done: int, total: int) -> float:
    """Learning-rate factor after ``done`` of ``total`` steps: cosine decay from 1 to 0."""
    return (1 + math.cos(math.pi * done / total)) / 2
