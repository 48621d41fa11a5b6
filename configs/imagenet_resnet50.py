"""ResNet-50 on ImageNet-1k: the 90-epoch recipe of Goyal et al. 2017, for 8 accelerators.

Command    python -m train --config=configs/imagenet_resnet50.py --workdir=runs/imagenet_resnet50
Data       imagenet2012 (Russakovsky et al. 2015), prepared once with TFDS: 1,281,167 training and
           50,000 validation images; it cannot be downloaded without an account at image-net.org
Measured   not run here: the data is not freely available
Published  0.763 (Goyal et al. 2017, arXiv:1706.02677), 0.765 (flax linen example)
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="resnet50",
        model_fields={"zero_init_residual": True},
        data=DataConfig(
            name="imagenet2012",
            eval_split="validation",
            image_size=224,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            resize_size=256,
            crop_area=(0.08, 1.0),
            flip=True,
        ),
        optim=OptimConfig(
            name="sgd",
            learning_rate=0.4,
            warmup_steps=6_255,
            weight_decay=1e-4,
            momentum=0.9,
            nesterov=True,
        ),
        checkpoint=CheckpointConfig(every=1251),
        steps=112_590,  # 90 epochs
        batch_size=1024,
        eval_batch_size=1024,
        eval_every=6_255,
        log_every=100,
        dtype="bfloat16",
    )
