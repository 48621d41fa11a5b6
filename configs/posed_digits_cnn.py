"""CNN on handwritten digits that were turned and moved: three numbers of an image.

Command    python -m train --config=configs/posed_digits_cnn.py --workdir=runs/posed_digits_cnn
           python -m train.explain --workdir=runs/posed_digits_cnn --split=test --target=right
Data       posed_digits: scikit-learn's 1,797 digits on 16 x 16 pixels, each turned by -45 to 45
           degrees and moved by up to 3 pixels to the right and down; 1,438 to train, 359 to test
Measured   mean absolute error 7.3 degrees, 0.23 and 0.22 pixels; correlation 0.939, 0.985, 0.986;
           20 seconds on two cores
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    """The network of `digits_cnn`, with three outputs."""
    return Config(
        model="cnn",
        model_fields={"features": (16, 32), "hidden_size": 64},
        task="regression",
        data=DataConfig(name="posed_digits"),
        optim=OptimConfig(
            learning_rate=3e-3, weight_decay=1e-4, schedule="cosine", warmup_steps=50
        ),
        checkpoint=CheckpointConfig(every=250),
        steps=500,
        batch_size=64,
        eval_batch_size=360,
        eval_every=250,
        log_every=50,
    )
