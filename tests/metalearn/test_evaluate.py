import pytest
import torch

from sparsedis.data import Episodes, FewShotData
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import encode, evaluate
from sparsedis.metalearn.learner import Learner


@pytest.mark.parametrize("head", ["group-lasso-svm", "prototypes"])
def test_the_same_as_episode_by_episode(few_shot_data: FewShotData, head: str) -> None:
    """The table of features, and many episodes at once, give what the learner gives episode by episode."""
    torch.manual_seed(0)
    learner = Learner(TrainConfig(head=head, width=8)).eval()  # type: ignore[arg-type]
    episodes = Episodes(few_shot_data, "test", way=3, shot=2, query=4, length=60)
    result = evaluate(learner, encode(learner, few_shot_data, "test"), episodes)
    scores, used = [], []
    with torch.no_grad():
        for episode in map(episodes.__getitem__, range(len(episodes))):
            output = learner(type(episode)(*(x[None] for x in episode)), 3)
            scores.append((output.logits[0].argmax(-1) == episode.query_labels).double().mean())
            used.append((~output.sparsity).double().mean())
    accuracy = torch.stack(scores)
    assert result.accuracy == pytest.approx(accuracy.mean().item(), abs=0.005)
    assert result.ci95 == pytest.approx(1.96 * accuracy.std().item() / 60**0.5, rel=0.1)
    assert result.features_used == pytest.approx(torch.stack(used).mean().item(), abs=0.01)
    assert result.certified == (1.0 if head == "group-lasso-svm" else None)
    assert (result.split, result.way, result.shot, result.query, result.episodes) == ("test", 3, 2, 4, 60)


def test_only_the_split_is_encoded_and_the_mode_is_kept(few_shot_data: FewShotData) -> None:
    learner = Learner(TrainConfig(width=4))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    features = encode(learner, few_shot_data, "validation")
    inside = torch.isin(few_shot_data.labels, torch.tensor(few_shot_data.splits["validation"]))
    assert features.shape == (300, 4)
    assert (features[~inside] == 0).all()
    assert (features[inside].abs().sum(1) > 0).any()
    assert learner.encoder.training
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert not features.requires_grad
