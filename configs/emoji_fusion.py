"""A picture and its name, fused, to tell an emoji's group.

Command    python -m train --config=configs/emoji_fusion.py --workdir=runs/emoji_fusion
           --config.model_fields.fusion=concat
Data       emoji
Measured   -
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="fusion",
        model_fields={
            "fusion": "concat",
            "image_encoder": "cnn",
            "text_encoder": "lstm",
            "text_fields": {"embed_size": 64, "hidden_size": 64},
        },
        data=DataConfig(
            name="emoji",
            eval_split="validation",
            image_size=32,
            texts=("text",),
            tokenizer="wordpiece",
            vocab_size=2000,
            max_len=16,
            crop_padding=3,
            flip=True,
            hide_rate=0.2,
        ),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=50, weight_decay=0.05, clip_norm=1.0),
        checkpoint=CheckpointConfig(every=210),
        steps=630,
        batch_size=128,
        eval_batch_size=128,
        eval_every=210,
        log_every=42,
    )
