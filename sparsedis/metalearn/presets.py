"""Settings with a name."""

from __future__ import annotations

from typing import Literal

from sparsedis.metalearn.config import TrainConfig

Preset = Literal["quick", "metaoptnet"]

PRESETS: dict[str, TrainConfig] = {
    "quick": TrainConfig(),
    # Lee et al., CVPR 2019, section 4, and their code: 60 epochs of 1000 batches of 8 episodes, ResNet-12 on 4 devices.
    "metaoptnet": TrainConfig(
        data="miniimagenet",
        encoder="resnet12",
        shot=15,
        query=6,
        iterations=60_000,
        batch=8,
        micro_batch=2,
        augment="crop-flip-color",
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=5e-4,
        schedule="metaoptnet",
        label_smoothing=0.1,
        logit_scale=1.0,
        validation_shot=5,
        test_query=15,
        validate_every=1000,
        validation_episodes=2000,
        test_episodes=2000,
        log_every=100,
        save_every=1000,
    ),
}
