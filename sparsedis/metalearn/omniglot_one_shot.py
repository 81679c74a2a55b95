"""Evaluation on Omniglot's own protocol: 20 runs of within-alphabet 20-way one-shot classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsedis.data.omniglot_one_shot import Run
from sparsedis.metalearn.learner import Learner


@dataclass(frozen=True)
class OneShot:
    """Errors on Omniglot's one-shot runs, as fractions of the test images.

    Attributes:
        error: over all runs.
        error_per_run: by name of the run.
        features_used: fraction of the features that a run's classifier uses, averaged over the runs.
        certified: fraction of the runs with certified solves; None for a head without certificates.
        largest_gap: largest relative duality gap of the solves; None for a head without certificates.
    """

    error: float
    error_per_run: dict[str, float]
    features_used: float
    certified: float | None
    largest_gap: float | None = None


@torch.no_grad()
def one_shot(learner: Learner, runs: Sequence[Run]) -> OneShot:
    """Fit the head to the training images of every run, one per class, and classify its test images.

    Batch normalisation uses its running statistics, so that test images do not influence each other.
    """
    training = learner.encoder.training
    learner.encoder.eval()
    wrong, total, used, certified, gaps = 0, 0, [], [], []
    per_run = {}
    for run in runs:
        way = len(run.training)
        support, query = (learner.encode(images).float()[None] for images in (run.training, run.test))
        output = learner.head(query, support, torch.arange(way, device=support.device)[None], way)
        errors = int((output.logits[0].argmax(-1).cpu() != run.labels).sum())
        per_run[run.name] = errors / len(run.labels)
        wrong, total = wrong + errors, total + len(run.labels)
        used.append(output.active.double().mean().item())
        if (solution := learner.head.last_solution) is not None:
            certified.append(solution.certified.double().mean().item())
            gaps.append(solution.relative_gap.max().item())
    learner.encoder.train(training)
    return OneShot(
        wrong / total,
        per_run,
        sum(used) / len(used),
        sum(certified) / len(runs) if certified else None,
        max(gaps, default=None),
    )
