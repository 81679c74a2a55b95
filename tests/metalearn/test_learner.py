"""Passes of the encoder over parts of a batch, beside one pass over all of it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparsedis.data import Episodes, FewShotData
from sparsedis.metalearn import optimization
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.learner import Learner

CONFIG = TrainConfig(width=8, way=3, batch=4, lambda2=5.0)
HEADS = ["group-lasso-svm", "svm", "ridge", "prototypes", "group-lasso-logistic"]


def batch(data: FewShotData) -> tuple[Episodes, torch.Tensor]:
    episodes = Episodes(data, "train", way=3, shot=2, query=3, length=4)
    return episodes.raw(episodes.batch(0, 4))


def gradients(learner: Learner, data: FewShotData, first: int | None = 0) -> dict[str, torch.Tensor]:
    """Of the loss, with the loss itself."""
    images = batch(data)
    if next(learner.parameters()).dtype == torch.float64:
        images = images._replace(support=images.support.double() / 255, query=images.query.double() / 255)
    with learner.statistics.step(learner.micro_batch is not None, lambda x: x):
        loss = optimization.loss(CONFIG, learner(images, 3, first).logits, images.query_labels)
        learner.zero_grad()
        loss.backward()
    return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in learner.named_parameters()}}


def made(config: TrainConfig, data: FewShotData) -> Learner:
    torch.manual_seed(0)
    return Learner(config, data.images.shape[1:]).train()


@pytest.mark.parametrize("head", HEADS)
def test_passes_give_the_gradients_of_one_pass(few_shot_data: FewShotData, head: str) -> None:
    """Where no statistic ties the images together, the parts are the whole."""
    config = CONFIG.with_head(head)
    whole = made(config, few_shot_data).double()
    parts = made(replace(config, micro_batch=1), few_shot_data).double()
    for learner in (whole, parts):
        learner.encoder.eval()
    expected, came = gradients(whole, few_shot_data), gradients(parts, few_shot_data)
    assert expected.keys() == came.keys()
    for name in expected:
        torch.testing.assert_close(came[name], expected[name], rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_training_fits_the_head_to_fewer_images_too(few_shot_data: FewShotData, head: str) -> None:
    """To the first image of every class, as if there were no others, and to all."""
    learner = made(replace(CONFIG.with_head(head), shot=2, fewer_shots=(1, 2, 7)), few_shot_data).double()
    assert learner.shots == (1, 2)
    images = batch(few_shot_data)
    images = images._replace(support=images.support.double() / 255, query=images.query.double() / 255)
    learner.encoder.eval()
    output = learner(images, 3)
    features = learner.features(torch.cat([images.support, images.query], 1))
    support, query = features[:, :6], features[:, 6:]
    few = learner.head(query, support[:, ::2], images.support_labels[:, ::2], 3)
    every = learner.head(query, support, images.support_labels, 3)
    torch.testing.assert_close(output.logits, torch.cat([few.logits, every.logits]), rtol=1e-5, atol=1e-7)
    assert torch.equal(output.active, torch.cat([few.active, every.active]))
    assert not torch.allclose(few.logits, every.logits, rtol=1e-2)
    expected = sum(optimization.loss(CONFIG, each.logits, images.query_labels) for each in (few, every)) / 2
    torch.testing.assert_close(optimization.loss(CONFIG, output.logits, images.query_labels), expected)


@pytest.mark.parametrize("encoder", ["conv4", "resnet12", "r2d2"])
def test_what_is_run_again_is_what_was_kept(
    few_shot_data: FewShotData, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batch normalisation and dropout in training mode: the same bits as when every pass is kept in memory."""
    big = replace(few_shot_data, images=few_shot_data.images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    config = replace(CONFIG, encoder=encoder, width=4, micro_batch=2, augment="crop-flip")
    again, kept = made(config, big), made(config, big)
    for learner in (again, kept):
        for module in learner.encoder.modules():
            if hasattr(module, "ramp"):
                module.ramp, module.rate = 0, 0.3
    came = gradients(again, big)
    monkeypatch.setattr("sparsedis.metalearn.learner.checkpoint", lambda run, *arguments, **_: run(*arguments))
    expected = gradients(kept, big)
    for name in expected:
        assert torch.equal(came[name], expected[name]), name
    for name, value in kept.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_pass_normalises_by_its_own_episodes(few_shot_data: FewShotData) -> None:
    """The features of an episode in a pass of its own do not depend on the other episodes of the batch."""
    learner = made(replace(CONFIG, micro_batch=1), few_shot_data)
    images = few_shot_data.images[:40].unflatten(0, (4, 10))
    together = learner.features(images)
    alone = learner.features(images[2:3])
    torch.testing.assert_close(together[2:3], alone)
    assert not torch.allclose(made(CONFIG, few_shot_data).features(images)[2:3], alone, atol=1e-3)


def test_randomness_belongs_to_the_episode(few_shot_data: FewShotData) -> None:
    """Shared out or not, and whatever was drawn before, a pass draws the same."""
    learner = made(replace(CONFIG, micro_batch=2, augment="crop-flip"), few_shot_data)
    images = few_shot_data.images[:40].unflatten(0, (4, 10))
    whole = learner.features(images, 8)
    torch.rand(5)
    torch.testing.assert_close(torch.cat([learner.features(images[:2], 8), learner.features(images[2:], 10)]), whole)
    assert not torch.allclose(learner.features(images, 12), whole)


def test_memory_of_one_pass(few_shot_data: FewShotData) -> None:
    """What the graph keeps of the encoder does not grow with the number of passes."""
    kept = []
    for count in (2, 8):
        learner = made(replace(CONFIG, batch=8, micro_batch=1), few_shot_data)
        images = few_shot_data.images[: 10 * count].unflatten(0, (count, 10))
        sizes = []

        def pack(value: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(value.numel() if value.is_floating_point() else 0)
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            learner.features(images).sum()
        kept.append(sum(sizes))
    assert kept[1] <= kept[0] + 10 * 8 * 8 * 8


def test_an_encoder_of_ones_own(few_shot_data: FewShotData) -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU())
    config = replace(CONFIG, encoder="custom", micro_batch=2)
    learner = Learner(config, (1, 8, 8), encoder)
    assert learner(batch(few_shot_data), 3).logits.shape == (8, 9, 3)  # to one image per class, and to all
    assert learner.eval()(batch(few_shot_data), 3).logits.shape == (4, 9, 3)
    for wrong in ((config, None), (CONFIG, encoder)):
        with pytest.raises(ValueError, match="encoder: expected a module if and only if it is 'custom'"):
            Learner(wrong[0], (1, 8, 8), wrong[1])
    with pytest.raises(ValueError, match="final_width: expected none for an encoder of your own, got 8"):
        Learner(replace(config, final_width=8), (1, 8, 8), encoder)


def test_a_table_of_features() -> None:
    data = FewShotData(
        name="table",
        images=torch.rand(60, 7),
        labels=torch.arange(60) % 6,
        class_names=tuple("abcdef"),
        splits={"train": (0, 1, 2, 3), "validation": (4,), "test": (5,)},
    )
    learner = Learner(replace(CONFIG, encoder="identity"), (7,))
    assert learner.eval()(batch(data), 3).active.shape == (4, 7)
    with pytest.raises(ValueError, match=r"augment: expected none for inputs of shape \(7,\)"):
        Learner(replace(CONFIG, encoder="identity", augment="crop-flip"), (7,))
