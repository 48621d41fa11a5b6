"""A small AlexNet on Fashion-MNIST.

Command    python -m train --config=configs/fashion_alexnet.py --workdir=runs/fashion_alexnet
Data       Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 training and 10,000 test
           images, 28x28 grey
Measured   test accuracy 0.9145 after 6,000 steps (12.8 epochs), 11 minutes on one CPU core, 288
           thousand parameters
Model      Krizhevsky et al. 2012 with the small stem and a quarter of the channels
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="alexnet",
        model_fields={
            "stem": "small",
            "features": (16, 48, 96, 64, 64),
            "hidden_sizes": (256, 256),
            "pooled_size": 2,
            "dropout_rate": 0.3,
        },
        data=DataConfig(
            name="fashion_mnist", mean=(0.2860,), std=(0.3530,), crop_padding=1, flip=True
        ),
        optim=OptimConfig(
            name="adamw", learning_rate=1e-3, warmup_steps=300, weight_decay=0.05, ema_decay=0.999
        ),
        checkpoint=CheckpointConfig(every=1000),
        steps=6_000,
        batch_size=128,
        eval_every=1000,
        log_every=100,
    )
