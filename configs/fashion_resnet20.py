"""ResNet-20 on Fashion-MNIST.

Command    python -m train --config=configs/fashion_resnet20.py --workdir=runs/fashion_resnet20
Data       Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 training, 10,000 test images, 28x28 grey
Measured   test accuracy 0.9374 after 5,600 steps (11.9 epochs), 26 minutes on 2 CPU cores, 269,434 parameters
Model      He et al. 2016, section 4.2, with the small stem: 270 thousand parameters
"""

from train.config import Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="resnet20",
        data=DataConfig(name="fashion_mnist", mean=(0.286,), std=(0.353,), crop_padding=2, flip=True),
        optim=OptimConfig(
            name="sgd", learning_rate=0.1, warmup_steps=300, weight_decay=5e-4, momentum=0.9, nesterov=True
        ),
        steps=5600,
        batch_size=128,
        eval_every=800,
        log_every=100,
    )
