"""Variational autoencoder (784-400-20-400-784, Bernoulli) on Fashion-MNIST.

Command    python -m train --config=configs/fashion_vae.py --workdir=runs/fashion_vae
           python -m train.generate --workdir=runs/fashion_vae --count=64
           python -m train.compare.twin --workdir=runs/fashion_vae
Data       fashion_mnist: 60,000 training and 10,000 test images of 28x28 pixels (Debian's package
           dataset-fashion-mnist, --config.data.raw_dir=DIR, or a download); greys in [0, 1] are the
           targets
Measured   test ELBO -241.28 nats per image (log p(x) from 64 importance samples: -239.01) after
           14,000 steps (29.9 epochs), 2 minutes on one CPU core, 652,824 parameters. PyTorch's
           twin, by the third command (the same initial values, batches and noise): -241.17
           (-238.96)
Model      Kingma & Welling 2014 (arXiv:1312.6114), sizes and optimiser of
           github.com/pytorch/examples/tree/main/vae
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="vae",
        model_fields={"hidden_sizes": (400,), "latent_size": 20},
        task="elbo",
        data=DataConfig(name="fashion_mnist", mean=(0.0,), std=(1.0,)),
        optim=OptimConfig(name="adamw", learning_rate=1e-3, schedule="constant", weight_decay=0.0),
        checkpoint=CheckpointConfig(every=2000),
        steps=14_000,
        batch_size=128,
        eval_every=2000,
        log_every=200,
    )
