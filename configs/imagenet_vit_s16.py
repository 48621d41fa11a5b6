"""ViT-S/16 on ImageNet-1k in 90 epochs: "Better plain ViT baselines" (Beyer et al. 2022), for 8
accelerators.

Command    python -m train --config=configs/imagenet_vit_s16.py --workdir=runs/imagenet_vit_s16
Data       imagenet2012 (Russakovsky et al. 2015), prepared once with TFDS: 1,281,167 training and
           50,000 validation images; it cannot be downloaded without an account at image-net.org
Measured   not run here: the data is not freely available
Published  0.765 (arXiv:2205.01580, table 1, 90 epochs); RandAugment here has torchvision's
           operations, at the magnitude that big_vision's (2, 10) means
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="vit_s_16",
        model_fields={
            "pool": "mean",
            "position": "sincos",
            "representation_size": 384,
            "scan": True,
        },
        data=DataConfig(
            name="imagenet2012",
            eval_split="validation",
            image_size=224,
            resize_size=256,
            crop_area=(0.05, 1.0),
            randaugment_layers=2,
            randaugment_magnitude=1.0,
            flip=True,
            mixup=0.2,
        ),
        optim=OptimConfig(
            name="adamw", learning_rate=1e-3, warmup_steps=10_000, weight_decay=0.1, clip_norm=1.0
        ),
        checkpoint=CheckpointConfig(every=1251),
        steps=112_590,  # 90 epochs
        batch_size=1024,
        eval_batch_size=1024,
        eval_every=6_255,
        log_every=100,
        dtype="bfloat16",
    )
