"""
Learn lambda1 and lambda2
=========================

The solution of a task is also differentiable with respect to its hyperparameters, so they can be trained like weights,
by the gradient of a loss on samples that the classifiers were not fitted to. This example has no encoder and trains
only hyperparameters.
"""

import matplotlib.pyplot as plt
import torch

import sparsedis

# %%
# 32 tasks with four classes each. In each task a different set of five of the 50 features is useful; the rest is noise.

generator = torch.Generator().manual_seed(0)
TASKS, WAY, FEATURES, USEFUL = 32, 4, 50, 5
centres = torch.zeros(TASKS, WAY, FEATURES)
useful = torch.rand(TASKS, FEATURES, generator=generator).argsort(1)[:, :USEFUL]
centres.scatter_(2, useful[:, None].expand(-1, WAY, -1), torch.randn(TASKS, WAY, USEFUL, generator=generator))


def samples(shot):
    labels = torch.arange(WAY).repeat_interleave(shot)
    return centres[:, labels] + torch.randn(TASKS, len(labels), FEATURES, generator=generator), labels.expand(TASKS, -1)


(support, labels), (query, query_labels) = samples(6), samples(20)


def loss_of(head):
    logits = head(query, support, labels, WAY).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), query_labels.flatten())


# %%
# First a grid search for comparison, then gradient descent on lambda1 alone from two starting points. (Above about 0.7,
# all features of all tasks are off here and the gradient is zero, so do not start there.)

grid = torch.logspace(-2.3, 0, 30)
with torch.no_grad():
    losses = torch.stack([loss_of(sparsedis.nn.GroupLassoSVM(value.item(), 10.0, logit_scale=3.0)) for value in grid])
best = grid[losses.argmin()].item()
print(f"best of the grid: lambda1 {best:.3f}, loss {losses.min():.4f}")


def train(start, *learn):
    head = sparsedis.nn.GroupLassoSVM(start, 10.0, learn=learn, logit_scale=3.0)
    optimizer = torch.optim.Adam(head.log.parameters(), lr=0.15)  # the logarithms of the learned hyperparameters
    track = []
    for _ in range(50):
        loss = loss_of(head)
        track.append([loss.item(), *(head.hyperparameter(name).item() for name in learn)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.tensor(track)


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.plot(grid, losses, color="0.6", label="grid")
for start in (0.01, 0.5):
    track = train(start, "lambda1")
    print(f"from lambda1 {start}: to {track[-1, 1]:.3f}, loss {track[-1, 0]:.4f}")
    left.plot(track[:, 1], track[:, 0], ".", markersize=5, label=f"gradient steps from {start}")
    right.plot(track[:, 1], label=f"from {start}")
both = train(0.1, "lambda1", "lambda2")
print(f"both: lambda1 {both[-1, 1]:.3f}, lambda2 {both[-1, 2]:.2f}, loss {both[-1, 0]:.4f}")
left.set(xscale="log", xlabel="lambda1, relative", ylabel="loss on query samples")
left.legend()
right.axhline(best, color="0.6", linestyle="--", label="best of the grid")
right.set(yscale="log", xlabel="step", ylabel="lambda1, relative")
right.legend()
plt.show()
