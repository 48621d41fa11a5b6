"""CNN on emoji with two labels of each image: its group and its subgroup.

Command    python -m train --config=configs/emoji_labels.py --workdir=runs/emoji_labels
           python -m train.explain --workdir=runs/emoji_labels --split=test --task=subgroup
Data       emoji: see `emoji_fusion`; images alone, of 32 x 32 pixels
Measured   test accuracy 0.739 for the group (9 classes) and 0.475 for the subgroup (99 classes); a
           minute on two cores
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig, TasksConfig


def get_config() -> Config:
    """One trunk and a head for each label; the losses are added."""
    return Config(
        model="cnn",
        model_fields={"features": (16, 32), "hidden_size": 128},
        tasks=TasksConfig(labels=("label", "subgroup")),
        data=DataConfig(name="emoji", image_size=32),
        optim=OptimConfig(
            learning_rate=2e-3, weight_decay=1e-4, schedule="cosine", warmup_steps=30
        ),
        checkpoint=CheckpointConfig(every=150),
        steps=300,
        batch_size=64,
        eval_batch_size=256,
        eval_every=150,
        log_every=50,
    )
