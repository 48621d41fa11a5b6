"""Encoder-decoder Transformer, base, on WMT 2014 from English to German: the recipe of its paper.

Command    python -m train --config=configs/transformer_wmt14.py --workdir=runs/wmt14
           big: --config.model=transformer_big --config.optim.learning_rate=5e-4
           --config.steps=300000
Data       WMT 2014, 4.5 million pairs: TFDS's wmt14_translate/de-en, prepared as array_record in
           data_dir; newstest2014 for the test; joint byte-level BPE of 37,000 tokens
Measured   not here: it builds and its sizes are tested; the data and the 8 accelerators it is made
           for are not at hand
Published  BLEU 27.3, big 28.4 (Vaswani et al. 2017, table 2: of tokenised text, the mean of the
           last checkpoints)
Model      post-norm, learning rate 512^-0.5 step^-0.5 after 4,000 steps, about 25,000 tokens of
           each side a step
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="transformer_base",
        model_fields={
            "attention_dropout_rate": 0.0,
            "activation_dropout_rate": 0.0,
            "final_norm": False,
            "scan": True,
        },
        task="seq2seq",
        data=DataConfig(
            name="wmt14_translate/de-en",
            eval_split="test",
            tokenizer="bpe",
            vocab_size=37_000,
            max_len=128,
            texts=("en", "de"),
            buckets=(24, 40, 64),
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=7e-4,
            schedule="rsqrt",
            warmup_steps=4_000,
            b2=0.98,
            eps=1e-9,
            ema_decay=0.999,
        ),
        checkpoint=CheckpointConfig(every=2_500),
        options={"label_smoothing": 0.1, "beams": 4, "length_penalty": 0.6},
        steps=100_000,
        batch_size=896,
        eval_batch_size=256,
        eval_every=5_000,
        log_every=100,
        dtype="bfloat16",
    )
