"""ResNet-18 with the small stem on CIFAR-10: the usual recipe (kuangliu/pytorch-cifar), for one GPU
or TPU.

Command    python -m train --config=configs/cifar10_resnet18.py --workdir=runs/cifar10_resnet18
Data       CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32x32 colour
Measured   not run here: 78 thousand steps of 427 GFLOP each take about an hour on one H100 and days
           on a CPU
Published  0.9302 to 0.9547 for ResNet-18 in github.com/kuangliu/pytorch-cifar (200 epochs, SGD,
           cosine)
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="resnet18",
        model_fields={"stem": "small"},
        data=DataConfig(
            name="cifar10",
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            crop_padding=4,
            flip=True,
        ),
        optim=OptimConfig(
            name="sgd",
            learning_rate=0.1,
            warmup_steps=400,
            weight_decay=5e-4,
            momentum=0.9,
            nesterov=True,
        ),
        checkpoint=CheckpointConfig(every=2000),
        steps=78_000,
        batch_size=128,
        eval_every=2000,
        log_every=100,
    )
