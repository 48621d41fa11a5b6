"""ResNet-20 pretrained on Fashion-MNIST, fine-tuned on 100 handwritten digits.

Command    python -m train --config=configs/digits_transfer.py --workdir=runs/digits_transfer
           after configs/fashion_resnet20.py with --workdir=runs/fashion_resnet20; from scratch, to compare:
           --config.init_from=none --workdir=runs/digits_scratch
Data       digits: the first 100 training images and all 359 test images, 8x8 pixels resized to 28x28, 10 classes
Measured   test accuracy 0.8886, 0.8774, 0.9025 (seeds 0, 1, 2; mean 0.890) after 300 steps, a minute on 2 cores;
           from scratch with the same recipe 0.8579, 0.8663, 0.8022 (mean 0.842)
Published  none for this split
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="resnet20",
        init_from="runs/fashion_resnet20",
        data=DataConfig(
            name="digits", train_split="train[:100]", image_size=28, mean=(0.286,), std=(0.353,), crop_padding=2
        ),
        optim=OptimConfig(
            name="sgd",
            learning_rate=0.01,
            warmup_steps=20,
            weight_decay=5e-4,
            momentum=0.9,
            nesterov=True,
            rates={"head": 10.0},
        ),
        checkpoint=CheckpointConfig(every=100),
        steps=300,
        batch_size=48,
        eval_batch_size=120,
        eval_every=100,
        log_every=20,
    )
