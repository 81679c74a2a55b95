"""
Features that disentangle
=========================

An encoder is trained through the regressions that tasks fit to its six features. A task's target depends on some of the
six factors of an image (hues, scale, shape, orientation), which the encoder never sees. With Lasso regressions the
features become the factors; with ridge regressions they become a mixture of the factors.

To run in half a minute, this uses 16x16 images and a small network; :doc:`/disentanglement` has the full experiment.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import sparsedis
from sparsedis.disentangle import metrics
from sparsedis.disentangle.factors import Factors
from sparsedis.disentangle.shapes3d import COUNT, FACTORS, open_source

# %%
# 6000 images, rendered by the package; the last 1000 are used for evaluation.

chosen = torch.randint(COUNT, (6000,), generator=torch.Generator().manual_seed(0))
images = open_source("rendered").images(chosen)
factors = Factors().values[chosen]
pixels = nn.functional.avg_pool2d(images / 255, 4).flatten(1)
pixels -= pixels.mean(0)

plt.figure(figsize=(9, 1.6), layout="constrained").add_subplot().imshow(torch.cat([*images[:6]], 2).permute(1, 2, 0))
plt.axis("off")
plt.show()

# %%
# Each step has four sets of 50 images with 32 tasks each, and solves all 128 regressions in one call.


def train(solve, steps=700, sets=4, tasks=32, samples=50):
    torch.manual_seed(0)
    layers = nn.Linear(768, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 6, bias=False)
    encoder = nn.Sequential(*layers, nn.BatchNorm1d(6, affine=False))
    optimizer = torch.optim.Adam(encoder.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps + 1, pct_start=0.1)
    for _ in range(steps):
        batch = torch.randint(5000, (sets, samples))
        coefficients = torch.randn(sets, tasks, 6) * (torch.rand(sets, tasks, 6) < 0.5)  # half of them are zero
        targets = (coefficients @ factors[batch].mT).flatten(0, 1)
        targets += 0.1 * torch.randn_like(targets)
        features = encoder(pixels[batch.flatten()]).reshape(sets, 1, samples, 6).expand(-1, tasks, -1, -1).flatten(0, 1)
        solution = solve(features, targets)
        loss = ((features @ solution.weights[..., None])[..., 0] - targets).square().mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return encoder(pixels[-1000:])


learned = {
    "before": train(None, steps=0),
    "ridge": train(lambda X, y: sparsedis.solve_ridge(X, y, lambda2=0.2, relative=True)),
    "Lasso": train(lambda X, y: sparsedis.solve_lasso(X, y, lambda1=0.2, relative=True)),
}

# sphinx_gallery_thumbnail_number = 2
# %%
# Correlations between factors and features. MCC is their mean under the best one-to-one assignment, 1 if features equal
# factors. R measures how well the factors are linear in the features, mixed or not.

figure, panels = plt.subplots(1, 3, figsize=(10, 3.8), sharey=True, layout="constrained")
for panel, (name, features) in zip(panels, learned.items(), strict=True):
    mcc, r = metrics.mcc(factors[-1000:], features), metrics.r_score(factors[-1000:], features)
    print(f"{name:>6}: MCC {mcc:.3f}, R {r:.3f}")
    order = metrics.assignment(factors[-1000:], features)
    shown = panel.imshow(abs(metrics.correlations(factors[-1000:], features)[:, order]), vmin=0, vmax=1)
    panel.set(title=f"{name}: MCC {mcc:.2f}", xlabel="feature")
    panel.set_yticks(range(6), [factor.replace("_", " ") for factor in FACTORS])
figure.colorbar(shown, ax=panels, label="|correlation|")
plt.show()
