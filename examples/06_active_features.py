"""
What a task looks at
====================

The features of this example are the pixels of a smoothed image, so a task's sparse classifier can be drawn over its
images: the features in use are the pixels that distinguish the classes.
"""

import matplotlib.pyplot as plt
import torch

import sparsedis
from sparsedis.data import Episodes, load

# %%
# One task with four classes and eight support images per class, from the pictograms that come with the package.

data = load("pictograms")
episodes = Episodes(data, "test", way=4, shot=8, query=10, seed=1)
indices, episode = episodes.indices(0), episodes[0]
names = [data.class_names[data.labels[i]] for i in indices.support[::8]]


def features(images):
    """Pixels, averaged over 3x3 neighbourhoods: (n, 784)."""
    return torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1).flatten(1)


solution = sparsedis.solve_svm(
    features(episode.support), episode.support_labels, lambda1=0.15, lambda2=1.0, relative=True
)
accuracy = ((features(episode.query) @ solution.weights).argmax(-1) == episode.query_labels).double().mean()
print(f"{int(solution.active.sum())} of 784 places are used; accuracy on new images {accuracy:.0%} (chance is 25%)")
print(f"relative gap {solution.relative_gap:.1e}, certified: {bool(solution.certified)}")

# %%
# Each row shows a class: the mean of its images, its weights (red: positive, blue: negative, grey: pixels that no class
# uses), and three images with the pixels that the task uses.

active = solution.active.reshape(28, 28)
weights = solution.weights.T.reshape(4, 28, 28)
limit = float(weights.abs().max())
figure, rows = plt.subplots(4, 5, figsize=(8, 6.6), layout="constrained")
for label, row in enumerate(rows):
    own = episode.support[episode.support_labels == label, 0]
    row[0].imshow(own.mean(0), cmap="Greys")
    row[1].set_facecolor("0.9")
    row[1].imshow(weights[label].where(active, torch.nan), cmap="RdBu_r", vmin=-limit, vmax=limit)
    for panel, image in zip(row[2:], own, strict=False):
        panel.imshow(image, cmap="Greys")
        y, x = active.nonzero().T
        panel.scatter(x, y, s=5, color="C1")
    for panel in row:
        panel.set(xticks=[], yticks=[], xlim=(-0.5, 27.5), ylim=(27.5, -0.5))
    row[0].set_ylabel(names[label])
for panel, title in zip(rows[0], ("mean", "weights", "places used", "", ""), strict=True):
    panel.set_title(title)
plt.show()
