"""
A head in a training loop
=========================

Meta-learning in one short script: an encoder maps images to features, a head fits a sparse SVM to the support images of
every task, and the loss is measured on query images of the same classes. Its gradient flows through the fit into the
encoder.

The images are the pictograms that come with the package.
"""

import matplotlib.pyplot as plt
import torch

import sparsedis
from sparsedis.data import Episodes, load
from sparsedis.models import Conv4

torch.manual_seed(0)
STEPS, BATCH, WAY = 100, 4, 5
data = load("pictograms")
training = Episodes(data, "train", way=WAY, shot=5, query=5, length=STEPS * BATCH)

encoder = Conv4(width=16, final_width=64)  # 28x28 pixels -> 576 features
head = sparsedis.nn.GroupLassoSVM(lambda1=0.1, lambda2=60.0, logit_scale=5.0)
optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=2e-3)


# %%
# One call of the head solves all tasks of the batch. It returns logits for the query images, and a mask of the features
# that each task uses.


def logits_of(episodes):
    images = torch.cat([episodes.support, episodes.query], 1)
    features = encoder(images)
    n = episodes.support.shape[1]
    return head(features[:, n:], features[:, :n], episodes.support_labels, n_way=WAY)


history = []
for step in range(STEPS):
    batch = training.images(training.batch(step * BATCH, (step + 1) * BATCH))
    logits, active = logits_of(batch)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.query_labels.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    accuracy = (logits.argmax(-1) == batch.query_labels).double().mean()
    assert head.last_solution.certified.all()  # a certificate for every task of every step
    history.append((loss.item(), accuracy.item(), active.double().mean().item()))

# %%
# Test on classes that were not used in training:

encoder.eval()
test = Episodes(data, "test", way=WAY, shot=5, query=10, length=100)
with torch.no_grad():
    episodes = test.images(test.batch(0, 100))
    logits, active = logits_of(episodes)
accuracy = (logits.argmax(-1) == episodes.query_labels).double().mean()
print(f"accuracy {accuracy:.1%} (chance is 20%), features used {active.double().mean():.1%}")
print(f"largest relative gap {head.last_solution.relative_gap.max():.1e}")

# %%
# Running means over ten steps. Accuracy rises while tasks use fewer and fewer features.

loss, accuracy, used = torch.tensor(history).T.unfold(1, 10, 1).mean(-1)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(loss)
left.set(xlabel="step", ylabel="loss on query images", ylim=0)
right.plot(accuracy, label="accuracy")
right.plot(used, label="features used")
right.set(xlabel="step", ylabel="fraction", ylim=(0, 1))
right.legend()
plt.show()
