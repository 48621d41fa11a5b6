"""ResNet-20 on Fashion-MNIST.

Command    python -m train --config=configs/fashion_resnet20.py --workdir=runs/fashion_resnet20
Data       Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 training, 10,000 test images,
           28x28 grey
Measured   test accuracy 0.9374 after 5,600 steps (11.9 epochs), 26 minutes on 2 CPU cores, 269,434
           parameters
Compressed int8 0.9385 at 0.27 of the bytes; 80% pruned 0.6626 in one shot and 0.9362 after 3
epochs, at 0.25 of the
           bytes, 0.11 with int8: --config.init_from=runs/fashion_resnet20 --config.init_skip="()"
           --config.optim.learning_rate=0.02 --config.optim.warmup_steps=50
           --config.prune.sparsity=0.8 --config.prune.end_step=500 --config.prune.every=50
           --config.steps=1400 --config.eval_every=700
Distilled  a ResNet-8 with 7% of the parameters (width=8, stage_sizes=(1,1,1), 1,870 steps): alone
           0.888 +- 0.003, from this teacher 0.899 +- 0.004 (3 seeds):
           --config.distill.teacher=runs/fashion_resnet20
Model      He et al. 2016, section 4.2, with the small stem: 270 thousand parameters
"""

from train.config import Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="resnet20",
        data=DataConfig(
            name="fashion_mnist", mean=(0.286,), std=(0.353,), crop_padding=2, flip=True
        ),
        optim=OptimConfig(
            name="sgd",
            learning_rate=0.1,
            warmup_steps=300,
            weight_decay=5e-4,
            momentum=0.9,
            nesterov=True,
        ),
        steps=5600,
        batch_size=128,
        eval_every=800,
        log_every=100,
    )
