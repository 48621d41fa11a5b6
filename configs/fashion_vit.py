"""A small Vision Transformer on Fashion-MNIST.

Command    python -m train --config=configs/fashion_vit.py --workdir=runs/fashion_vit
Data       Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 training and 10,000 test
           images, 28x28 grey
Measured   test accuracy 0.9150 after 10,000 steps (21.3 epochs), 59 minutes on one CPU core, about
           33 on two
Model      Dosovitskiy et al. 2021 with patches of 4 pixels: 49 tokens of 96 features, 4 layers, 330
           thousand parameters
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="vit_ti_16",
        model_fields={
            "patch_size": 4,
            "num_layers": 4,
            "num_heads": 4,
            "hidden_size": 96,
            "mlp_dim": 256,
            "scan": True,
        },
        data=DataConfig(
            name="fashion_mnist", mean=(0.2860,), std=(0.3530,), crop_padding=1, flip=True
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=2e-3,
            warmup_steps=500,
            weight_decay=0.05,
            clip_norm=1.0,
            ema_decay=0.999,
        ),
        checkpoint=CheckpointConfig(every=1000),
        steps=10_000,
        batch_size=128,
        eval_every=1000,
        log_every=100,
    )
