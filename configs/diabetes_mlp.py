"""MLP on the diabetes table that scikit-learn bundles: the progression of a disease, a number.

Command:   python -m train --config=configs/diabetes_mlp.py --workdir=runs/diabetes_mlp
Data:      442 patients, ten measurements each; trained on `train` (266), scored on `test` (88).
Measured:  @M@
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    """One hidden layer; the label is standardised, scores are in its own units."""
    return Config(
        model="mlp",
        model_fields={"hidden_sizes": (16,)},
        task="regression",
        data=DataConfig(name="diabetes"),
        optim=OptimConfig(learning_rate=3e-3, weight_decay=1.0, schedule="cosine", warmup_steps=20),
        checkpoint=CheckpointConfig(every=200),
        steps=400,
        steps_per_execution=20,
        batch_size=64,
        eval_batch_size=88,
        eval_every=200,
        log_every=100,
    )
