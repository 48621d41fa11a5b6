"""ViT-L/16 on ImageNet-1k, for a TPU v5e slice of 8 chips: the recipe of
configs/imagenet_vit_s16.py, regularised more.

Command    python -m train --config=configs/imagenet_vit_l16.py --workdir=runs/imagenet_vit_l16
Data       imagenet2012 (Russakovsky et al. 2015), prepared once with TFDS: 1,281,167 training and
           50,000 validation images; it cannot be downloaded without an account at image-net.org
Measured   not run here: the data is not freely available
Plan       python -m train.plan --config=configs/imagenet_vit_l16.py --topology=v5e:2x4
Published  0.765 from scratch (Dosovitskiy et al. 2021, table 5, ViT-L/16 trained on ImageNet for
           300 epochs, at 384 px)
Model      Dosovitskiy et al. 2021; Steiner et al. 2022 for dropout and weight decay on data of this
           size
"""

from train.config import CheckpointConfig, Config, DataConfig, MeshConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="vit_l_16",
        model_fields={
            "pool": "mean",
            "position": "sincos",
            "dropout_rate": 0.1,
            "scan": True,
            "remat": True,
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
        mesh=MeshConfig(data=1, fsdp=-1),
        checkpoint=CheckpointConfig(every=1251),
        steps=375_300,  # 300 epochs
        batch_size=1024,
        eval_batch_size=1024,
        eval_every=6_255,
        log_every=100,
        dtype="bfloat16",
    )
