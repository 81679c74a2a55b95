"""The effect of exact gradients: the same few-shot training with exact and with inexact inner solutions.

    PYTHONPATH=. python benchmarks/training.py [--seeds 0 1 2] [--iterations 300] [--every 20] [--out training.json]

Pictograms, Conv4 with a last block of 256 channels, 5-way 5-shot, the head fitted to all five images. Prints a Markdown
table: accuracy of the final learner on 600 test tasks, with the head of its training and with the exact head on the
same features; the features used per task; and the steps until 90% of the query images of 200 validation tasks are
classified correctly. Finished seeds are kept in the file and skipped when the command is repeated.

- "exact": the group-Lasso SVM at default settings.
- "loose": the same by FISTA to a relative gap of 1e-3. (With gradients, the default solver iterates to rounding error
  whatever the tolerance.)
- "published": five projected gradient steps and the gradient of their fixed point by five conjugate gradient steps
  (:mod:`benchmarks.peers.published`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.published import CG_ITERATIONS, RTOL, STEPS, Layer
from benchmarks.tasks import Tasks
from sparsedis import svm_lambda1_max
from sparsedis.metalearn import optimization, tasks
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import encode, evaluate
from sparsedis.metalearn.learner import Learner
from sparsedis.nn import GroupLassoSVM, HeadOutput
from sparsedis.runs import files

LAMBDA1, LAMBDA2, LOGIT_SCALE = 0.1, 60.0, 5.0
REACHED = 0.9


class _PublishedWeights(torch.autograd.Function):
    """W of the published algorithm and its gradient in the features; as there, the lambdas are constants."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, labels: Tensor, n_classes: int, lambda1: Tensor) -> Tensor:
        lambda2 = torch.full_like(lambda1, LAMBDA2)
        layer = Layer(Tasks(features, labels, n_classes, lambda1, lambda2, features.new_zeros(0)))
        layer.solve(STEPS)
        ctx.layer = layer
        return layer.weights()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.layer.gradients(grads[0], CG_ITERATIONS, None, RTOL)[0], None, None, None


class Published(nn.Module):
    """The published layer as a head: relative lambda1 and a trainable scale of the logits, as in the exact head."""

    last_solution = None

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(LOGIT_SCALE))

    def forward(self, query: Tensor, support: Tensor, support_labels: Tensor, n_way: int) -> HeadOutput:
        with torch.no_grad():
            lambda1 = LAMBDA1 * svm_lambda1_max(support, support_labels, n_classes=n_way)
        W = _PublishedWeights.apply(support, support_labels, n_way, lambda1)
        return HeadOutput(self.scale * (query @ W), W.detach().any(-1))


HEADS: dict[str, Callable[[], nn.Module]] = {
    "exact": lambda: GroupLassoSVM(LAMBDA1, LAMBDA2, logit_scale=LOGIT_SCALE),
    "loose": lambda: GroupLassoSVM(LAMBDA1, LAMBDA2, logit_scale=LOGIT_SCALE, solver="fista", tol=1e-3),
    "published": Published,
}


def run(name: str, seed: int, iterations: int, every: int) -> dict[str, Any]:
    """Train with one head and test."""
    config = TrainConfig(
        final_width=256, fewer_shots=(), lambda1=LAMBDA1, lambda2=LAMBDA2, iterations=iterations, seed=seed
    )
    data = tasks.read(config)
    training = tasks.of_training(config, data, iterations * config.batch)
    validation = tasks.of_validation(config, data)
    assert validation is not None  # pictograms have validation classes
    torch.manual_seed(seed)
    learner = Learner(config, data.images.shape[1:])
    learner.head = HEADS[name]()
    optimizer = optimization.optimizer(config, learner)
    curve: list[tuple[int, float]] = []
    seconds = 0.0
    for step in range(iterations):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = optimization.learning_rate(config, step)
        first = step * config.batch
        batch = training.raw(training.batch(first, first + config.batch))
        output = learner.train()(batch, config.way, first)
        optimizer.zero_grad()
        optimization.loss(config, output.logits, batch.query_labels).backward()
        optimizer.step()
        seconds += time.perf_counter() - start
        if (step + 1) % every == 0:
            accuracy = evaluate(learner, encode(learner, data, "validation"), validation).accuracy
            curve.append((step + 1, accuracy))
            print(f"{name}, seed {seed}, step {step + 1}: validation {accuracy:.1%}", flush=True)
    features = encode(learner, data, "test")
    tests = {"own": _tests(learner, features, config, data)}
    exact = HEADS["exact"]()
    exact.scale = learner.head.scale
    learner.head = exact
    tests["exact"] = _tests(learner, features, config, data)
    return {"head": name, "seed": seed, "curve": curve, "seconds_per_step": seconds / iterations, "tests": tests}


def _tests(learner: Learner, features: Any, config: TrainConfig, data: Any) -> dict[str, tuple[float, float, float]]:
    """Per number of shots (a string, as in JSON): accuracy, half the width of its 95% interval, features used."""
    results = [evaluate(learner, features, episodes) for episodes in tasks.of_tests(config, data)]
    return {str(test.shot): (test.accuracy, test.ci95 or 0.0, test.features_used) for test in results}


def table(rows: list[dict[str, Any]]) -> str:
    """The Markdown table: means over the seeds."""
    lines = [
        "| trained through | 1-shot | features used | with the exact head | 5-shot | features used "
        f"| with the exact head | steps to {REACHED:.0%} | ms a step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in HEADS:
        own = [row for row in rows if row["head"] == name]
        if not own:
            continue
        cells = [name]
        for shot in own[0]["tests"]["own"]:
            values = [row["tests"]["own"][shot] for row in own]
            interval = statistics.mean(value[1] for value in values) / len(values) ** 0.5
            cells.append(f"{100 * statistics.mean(value[0] for value in values):.2f} ± {100 * interval:.2f}")
            cells.append(f"{statistics.mean(value[2] for value in values):.1%}")
            cells.append(f"{100 * statistics.mean(row['tests']['exact'][shot][0] for row in own):.2f}")
        reached = [next((step for step, accuracy in row["curve"] if accuracy >= REACHED), None) for row in own]
        cells.append(", ".join("never" if step is None else str(step) for step in reached))
        cells.append(f"{1000 * statistics.mean(row['seconds_per_step'] for row in own):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--every", type=int, default=20, help="steps between validations")
    parser.add_argument("--out", type=Path, default=Path("training.json"))
    options = parser.parse_args()
    settings = {"iterations": options.iterations, "every": options.every, "threads": torch.get_num_threads()}
    rows: list[dict[str, Any]] = []
    if options.out.exists():
        known = json.loads(options.out.read_text())
        if known["settings"] != settings:
            parser.error(f"--out: {options.out} has other settings, {known['settings']}")
        rows = known["runs"]
    for seed in options.seeds:
        for name in options.heads:
            if any(row["head"] == name and row["seed"] == seed for row in rows):
                continue
            rows.append(run(name, seed, options.iterations, options.every))
            files.write_json(options.out, {"settings": settings, "runs": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
