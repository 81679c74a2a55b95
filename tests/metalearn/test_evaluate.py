import pytest
import torch

from sparsedis.data import Episodes, FewShotData
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import encode, evaluate, examine
from sparsedis.metalearn.learner import Learner
from sparsedis.nn import HeadOutput


@pytest.mark.slow
@pytest.mark.parametrize("head", ["group-lasso-svm", "svm", "ridge", "prototypes", "group-lasso-logistic"])
def test_batched_evaluation_agrees_with_single_episodes(few_shot_data: FewShotData, head: str) -> None:
    """With a precomputed table of features and many episodes at once."""
    torch.manual_seed(0)
    learner = Learner(TrainConfig(head=head, width=8), (1, 8, 8)).eval()  # type: ignore[arg-type]
    episodes = Episodes(few_shot_data, "test", way=3, shot=2, query=4, length=60)
    result = evaluate(learner, encode(learner, few_shot_data, "test"), episodes)
    scores, used = [], []
    with torch.no_grad():
        for episode in map(episodes.__getitem__, range(len(episodes))):
            output = learner(type(episode)(*(x[None] for x in episode)), 3)
            scores.append((output.logits[0].argmax(-1) == episode.query_labels).double().mean())
            used.append((output.active).double().mean())
    accuracy = torch.stack(scores)
    assert result.accuracy == pytest.approx(accuracy.mean().item(), abs=0.005)
    assert result.ci95 == pytest.approx(1.96 * accuracy.std().item() / 60**0.5, rel=0.1)
    assert result.features_used == pytest.approx(torch.stack(used).mean().item(), abs=0.01)
    assert result.certified == (None if head == "prototypes" else 1.0)
    assert (result.split, result.way, result.shot, result.query, result.episodes) == ("test", 3, 2, 4, 60)


def test_encode_encodes_only_the_split_and_keeps_the_mode(few_shot_data: FewShotData) -> None:
    learner = Learner(TrainConfig(width=4, final_width=4), (1, 8, 8))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    features = encode(learner, few_shot_data, "validation")
    inside = torch.isin(few_shot_data.labels, torch.tensor(few_shot_data.splits["validation"]))
    assert features.table.shape == (48, 4)
    assert ((features.rows >= 0) == inside).all()
    one = inside.nonzero()[7, 0]
    with torch.no_grad():
        expected = learner.eval().encoder(few_shot_data.images[one] / 255)
    learner.train()
    torch.testing.assert_close(features[one], expected)
    assert features[inside.nonzero()].shape == (48, 1, 4)
    assert learner.encoder.training
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert not features.table.requires_grad


def test_results_summarise_the_details(few_shot_data: FewShotData) -> None:
    torch.manual_seed(0)
    learner = Learner(TrainConfig(width=8), (1, 8, 8)).eval()
    episodes = Episodes(few_shot_data, "test", way=3, shot=2, query=4, length=60)
    features = encode(learner, few_shot_data, "test")
    result, details = examine(learner, features, episodes)
    assert details.accuracy.mean().item() == result.accuracy
    gaps = []
    for batch in (episodes.batch(0, 50), episodes.batch(50, 60)):
        learner.head(features[batch.query], features[batch.support], batch.support_labels, 3)
        gaps += learner.head.last_solution.relative_gap.tolist()  # type: ignore[union-attr]
    assert result.largest_gap == max(gaps) > min(gaps)
    assert details.active.double().mean().item() == pytest.approx(result.features_used)
    assert details.bins.sum(0)[:2].tolist() == pytest.approx([60 * 12, 60 * 12 * result.accuracy])
    for i in (0, 59):
        support = episodes.indices(i).support
        assert details.classes[i].tolist() == few_shot_data.labels[support][::2].tolist()


def test_calibration_error(few_shot_data: FewShotData) -> None:
    """Of a head that is right in 3 of 4 cases with confidence 0.95 and always with confidence 0.55."""

    class Known(torch.nn.Module):
        last_solution = None

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, query: torch.Tensor, support: torch.Tensor, labels: torch.Tensor, way: int) -> HeadOutput:
            right = torch.arange(way).repeat_interleave(4).expand(len(query), -1)
            chosen = torch.where(
                torch.arange(8) == 3, 1, right
            )  # one of the four queries of class 0 is classified as class 1
            confidence = torch.tensor([0.95] * 4 + [0.55] * 4).expand(len(query), -1)
            probability = (1 - confidence)[..., None].expand(-1, -1, 2).clone()
            probability.scatter_(2, chosen[..., None], confidence[..., None])
            return HeadOutput(probability.log(), torch.zeros(len(query), 4, dtype=torch.bool))

    learner = Learner(TrainConfig(width=4, final_width=4), (1, 8, 8))
    learner.head = Known()  # type: ignore[assignment]
    episodes = Episodes(few_shot_data, "test", way=2, shot=2, query=4, length=60)
    result, details = examine(learner, encode(learner, few_shot_data, "test"), episodes)
    assert result.accuracy == 7 / 8
    assert result.calibration_error == pytest.approx((abs(0.75 - 0.95) + abs(1 - 0.55)) / 2, abs=1e-6)
    assert details.bins[:, 0].nonzero()[:, 0].tolist() == [8, 14]
