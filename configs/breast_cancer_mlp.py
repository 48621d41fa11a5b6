"""MLP

Command    python -m train --config=configs/breast_cancer_mlp.py --workdir=runs/breast_cancer_mlp
Data       breast_cancer
Measured   x
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="mlp",
        model_fields={"hidden_sizes": (32,), "dropout_rate": 0.2},
        data=DataConfig(name="breast_cancer", eval_split="validation"),
        optim=OptimConfig(name="adamw", learning_rate=3e-3, warmup_steps=20, weight_decay=0.3),
        checkpoint=CheckpointConfig(every=300),
        steps=600,
        batch_size=64,
        eval_batch_size=128,
        eval_every=150,
        log_every=50,
    )
