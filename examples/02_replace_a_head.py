"""
Replace the head of a training script
=====================================

The heads take the same arguments as the heads of MetaOptNet and of scripts derived from it, where three lines change:

.. code-block:: diff

   -from models.classification_heads import ClassificationHead
   +import sparsedis
   -cls_head = ClassificationHead(base_learner="SVM-CS").cuda()
   +cls_head = sparsedis.nn.GroupLassoSVM(lambda1=0.1, lambda2=60.0, logit_scale=5.0).cuda()
   -logit_query = cls_head(emb_query, emb_support, labels_support, opt.train_way, opt.train_shot)
   +logit_query, active = cls_head(emb_query, emb_support, labels_support, opt.train_way, opt.train_shot)

This is a small version of such a script, with a dense head before the change and a sparse one after it.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import sparsedis
from sparsedis.data import Episodes, load
from sparsedis.models import Conv4

WAY, SHOT, STEPS = 5, 5, 80


class DenseHead(nn.Module):
    """Before: ridge regression onto the one-hot labels in closed form, as in R2-D2."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, query, support, support_labels, n_way, n_shot):
        targets = nn.functional.one_hot(support_labels, n_way).to(support.dtype)
        gram = support @ support.mT
        ridge = 0.1 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(n_way * n_shot)
        weights = support.mT @ torch.linalg.solve(gram + ridge, targets)
        return self.scale * query @ weights, weights.norm(dim=2) > 0


heads = {"before": DenseHead, "after": lambda: sparsedis.nn.GroupLassoSVM(lambda1=0.1, lambda2=60.0, logit_scale=5.0)}

# %%
# The training script does not depend on the head that it trains.


def run(encoder, head, split, steps, optimizer=None):
    episodes = Episodes(load("pictograms"), split, way=WAY, shot=SHOT, query=5, length=4 * steps)
    results = []
    for step in range(steps):
        batch = episodes.images(episodes.batch(4 * step, 4 * step + 4))
        support, query = encoder(torch.cat([batch.support, batch.query], 1)).split([WAY * SHOT, WAY * 5], 1)
        logits, active = head(query, support, batch.support_labels, WAY, SHOT)
        if optimizer:
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.flatten(0, 1), batch.query_labels.flatten()).backward()
            optimizer.step()
        results.append([(logits.argmax(-1) == batch.query_labels).double().mean(), active.double().mean()])
    return torch.tensor(results).mean(0).tolist()


figure, panels = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
for name, make in heads.items():
    torch.manual_seed(0)  # the same initial encoder and the same episodes
    encoder, head = Conv4(width=16, final_width=64), make()
    run(encoder, head, "train", STEPS, torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=2e-3))
    with torch.no_grad():
        accuracy, used = run(encoder.eval(), head, "test", 40)
    print(f"{name:>6}: accuracy on unseen classes {accuracy:.1%}, features used {used:.1%}")
    for panel, value, title in zip(panels, (accuracy, used), ("accuracy", "features used"), strict=True):
        panel.bar_label(panel.bar(name, value), [f"{value:.0%}"])
        panel.set(title=title, ylim=(0, 1.1))
plt.show()
