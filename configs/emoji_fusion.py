"""A picture and its name, fused, to tell an emoji's group.

Command    python -m train --config=configs/emoji_fusion.py --workdir=runs/emoji_fusion
           --config.model_fields.fusion=concat
Data       emoji
Measured   -
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig
from train.pretrained import minilm


def get_config() -> Config:
    return Config(
        model="fusion",
        model_fields={
            "fusion": "concat",
            "image_encoder": "cnn",
            "text_encoder": "minilm_l6",
            "text_fields": {"pool": "mean", "max_len": 512},
            "dropout_rate": 0.3,
        },
        init_parts={"text": minilm()},
        init_skip=("head", "pooler.*"),
        data=DataConfig(
            name="emoji",
            eval_split="validation",
            image_size=32,
            texts=("text",),
            tokenizer=minilm(),
            max_len=12,
            crop_padding=3,
            flip=True,
            hide_rate=0.2,
        ),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=40, weight_decay=0.05, clip_norm=1.0, freeze=("text",)),
        checkpoint=CheckpointConfig(every=210),
        steps=420,
        batch_size=64,
        eval_batch_size=64,
        eval_every=210,
        log_every=42,
    )
