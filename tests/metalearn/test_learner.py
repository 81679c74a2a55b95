"""The learner: encoder passes over parts of a batch compared with a single pass, fewer shots, custom encoders."""

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
    """The loss and its gradients, by name."""
    images = batch(data)
    if next(learner.parameters()).dtype == torch.float64:
        images = images._replace(support=images.support.double() / 255, query=images.query.double() / 255)
    with learner.statistics.step(learner.micro_batch is not None, lambda x: x):
        loss = optimization.loss(CONFIG, learner(images, 3, first).logits, images.query_labels)
        learner.zero_grad()
        loss.backward()
    return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in learner.named_parameters()}}


def new_learner(config: TrainConfig, data: FewShotData) -> Learner:
    torch.manual_seed(0)
    return Learner(config, data.images.shape[1:]).train()


@pytest.mark.parametrize("head", HEADS)
def test_passes_give_the_gradients_of_one_pass(few_shot_data: FewShotData, head: str) -> None:
    """In evaluation mode, because batch statistics depend on the pass."""
    config = CONFIG.with_head(head)
    whole = new_learner(config, few_shot_data).double()
    parts = new_learner(replace(config, micro_batch=1), few_shot_data).double()
    for learner in (whole, parts):
        learner.encoder.eval()
    expected, found = gradients(whole, few_shot_data), gradients(parts, few_shot_data)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_training_also_fits_the_head_to_fewer_shots(few_shot_data: FewShotData, head: str) -> None:
    """To the first image of every class alone, and to all images."""
    learner = new_learner(replace(CONFIG.with_head(head), shot=2, fewer_shots=(1, 2, 7)), few_shot_data).double()
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
def test_recomputed_passes_have_the_bits_of_stored_ones(
    few_shot_data: FewShotData, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including batch normalisation and dropout in training mode."""
    big = replace(few_shot_data, images=few_shot_data.images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    config = replace(CONFIG, encoder=encoder, width=4, micro_batch=2, augment="crop-flip")
    recomputed, stored = new_learner(config, big), new_learner(config, big)
    for learner in (recomputed, stored):
        for module in learner.encoder.modules():
            if hasattr(module, "ramp"):
                module.ramp, module.rate = 0, 0.3
    found = gradients(recomputed, big)
    monkeypatch.setattr("sparsedis.metalearn.learner.checkpoint", lambda run, *arguments, **_: run(*arguments))
    expected = gradients(stored, big)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
    for name, value in stored.state_dict().items():
        assert torch.equal(recomputed.state_dict()[name], value), name


def test_batch_norm_uses_the_episodes_of_a_pass_only(few_shot_data: FewShotData) -> None:
    """The features of an episode in its own pass do not depend on the other episodes of the batch."""
    learner = new_learner(replace(CONFIG, micro_batch=1), few_shot_data)
    images = few_shot_data.images[:40].unflatten(0, (4, 10))
    together = learner.features(images)
    alone = learner.features(images[2:3])
    torch.testing.assert_close(together[2:3], alone)
    assert not torch.allclose(new_learner(CONFIG, few_shot_data).features(images)[2:3], alone, atol=1e-3)


def test_random_numbers_depend_on_the_episode_only(few_shot_data: FewShotData) -> None:
    """Not on the division into passes or on earlier draws."""
    learner = new_learner(replace(CONFIG, micro_batch=2, augment="crop-flip"), few_shot_data)
    images = few_shot_data.images[:40].unflatten(0, (4, 10))
    whole = learner.features(images, 8)
    torch.rand(5)
    torch.testing.assert_close(torch.cat([learner.features(images[:2], 8), learner.features(images[2:], 10)]), whole)
    assert not torch.allclose(learner.features(images, 12), whole)


def test_memory_does_not_grow_with_the_number_of_passes(few_shot_data: FewShotData) -> None:
    """The tensors saved for backward by the encoder."""
    stored = []
    for count in (2, 8):
        learner = new_learner(replace(CONFIG, batch=8, micro_batch=1), few_shot_data)
        images = few_shot_data.images[: 10 * count].unflatten(0, (count, 10))
        sizes = []

        def pack(value: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(value.numel() if value.is_floating_point() else 0)
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            learner.features(images).sum()
        stored.append(sum(sizes))
    assert stored[1] <= stored[0] + 10 * 8 * 8 * 8


def test_custom_encoders_are_accepted(few_shot_data: FewShotData) -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU())
    config = replace(CONFIG, encoder="custom", micro_batch=2)
    learner = Learner(config, (1, 8, 8), encoder)
    assert learner(batch(few_shot_data), 3).logits.shape == (8, 9, 3)  # fitted to one image per class, and to all
    assert learner.eval()(batch(few_shot_data), 3).logits.shape == (4, 9, 3)
    for wrong in ((config, None), (CONFIG, encoder)):
        with pytest.raises(ValueError, match="encoder: expected a module if and only if it is 'custom'"):
            Learner(wrong[0], (1, 8, 8), wrong[1])
    with pytest.raises(ValueError, match="final_width: expected none for an encoder of your own, got 8"):
        Learner(replace(config, final_width=8), (1, 8, 8), encoder)


def test_tables_of_features_need_no_encoder() -> None:
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
