"""
A path of one task
==================

This script shows how the weights of one task change with lambda1. All 60 values are solved as one batch: the features
are expanded without a copy, and ``lambda1`` has one value per task.
"""

import matplotlib.pyplot as plt
import torch

import sparsedis

# %%
# There are five classes, with ten samples each for fitting and forty for testing. Of the 60 features only the first six
# differ between classes; the others are noise.

generator = torch.Generator().manual_seed(5)
WAY, USEFUL, FEATURES = 5, 6, 60
centres = torch.zeros(WAY, FEATURES)
centres[:, :USEFUL] = 1.5 * torch.randn(WAY, USEFUL, generator=generator)


def samples(shot):
    labels = torch.arange(WAY).repeat_interleave(shot)
    return centres[labels] + torch.randn(len(labels), FEATURES, generator=generator), labels


(X, y), (test_X, test_y) = samples(10), samples(40)

# %%
# With ``relative=True``, lambda1 = 1 turns all features off.

lambda1 = torch.logspace(-3, 0, 60)
path = sparsedis.solve_svm(X.expand(60, -1, -1), y.expand(60, -1), lambda1=lambda1, lambda2=1.0, relative=True)
accuracy = ((test_X @ path.weights).argmax(-1) == test_y).double().mean(-1)

print(f"largest relative gap on the path: {path.relative_gap.max():.1e}")
for i in (0, int(accuracy.argmax()), 50):
    useful, all_used = int(path.active[i, :USEFUL].sum()), int(path.active[i].sum())
    print(f"lambda1 {lambda1[i]:.3f}: {all_used:2d} features, {useful} useful; accuracy {accuracy[i]:.1%}")
last_used = (path.active * lambda1[:, None]).amax(0)
print("the last five features to leave:", sorted(last_used.topk(5).indices.tolist()))

# %%
# As lambda1 increases, the noise features become inactive before the useful ones. Accuracy on new samples is best where
# most noise features are inactive.

norms = path.weights.norm(dim=2)  # (60, features)
figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
upper.plot(lambda1, norms[:, USEFUL:], color="0.75", linewidth=0.8)
upper.plot(lambda1, norms[:, :USEFUL], color="C0")
upper.plot([], [], color="C0", label="useful features")
upper.plot([], [], color="0.75", label="noise")
upper.set(ylabel="norm of the feature's weights", ylim=0)
upper.legend()
lower.plot(lambda1, accuracy, color="C1", label="accuracy on new samples")
lower.plot(lambda1, path.active.double().mean(1), color="C2", label="fraction of features used")
lower.set(xscale="log", xlabel="lambda1, relative", ylim=(0, 1.02))
lower.legend()
plt.show()
