"""Small CNN on the UCI handwritten digits that scikit-learn bundles; needs no download. This is ``make train``.

Command    python -m train --config=configs/digits_cnn.py --workdir=runs/digits_cnn
Data       digits: 1,438 training and 359 test images of 8x8 pixels, 10 classes
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="cnn",
        model_fields={"features": (32, 64), "pool": "last", "hidden_size": 128, "dropout_rate": 0.3},
        data=DataConfig(name="digits", crop_padding=1),
        optim=OptimConfig(name="adamw", learning_rate=2e-3, warmup_steps=100, weight_decay=1e-2),
        checkpoint=CheckpointConfig(every=500),
        steps=2000,
        batch_size=128,
        eval_every=250,
        log_every=50,
    )
