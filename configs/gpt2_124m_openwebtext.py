"""GPT-2 124M on OpenWebText: the recipe of nanoGPT, half a million tokens a step.

Command    python -m train --config=configs/gpt2_124m_openwebtext.py --workdir=runs/gpt2_124m
Data       OpenWebText (Gokaslan & Cohen 2019), 9 billion tokens: a TFDS data set with a feature
           `text`, prepared as array_record in data_dir under this name;
           --config.data.name=text_files reads your own files instead. The tokenizer is the hub's
Measured   not here: it builds and its sizes are tested; the data and the 8 accelerators it is made
           for are not at hand
Published  validation loss about 2.85 after 600,000 steps, 4 days on 8 A100 (nanoGPT's README)
Model      Radford et al. 2019; the vocabulary is padded to a multiple of 128
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="gpt2_124m",
        model_fields={
            "vocab_size": 50_304,
            "embedding_dropout_rate": 0.0,
            "dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
            "scan": True,
            "remat": True,
        },
        task="causal_lm",
        data=DataConfig(
            name="openwebtext",
            train_split="train[:99%]",
            eval_split="train[99%:]",
            tokenizer="openai-community/gpt2",
            vocab_size=50_257,
            max_len=1024,
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=6e-4,
            warmup_steps=2_000,
            end_factor=0.1,
            weight_decay=0.1,
            clip_norm=1.0,
            b2=0.95,
        ),
        checkpoint=CheckpointConfig(every=1000),
        steps=600_000,
        batch_size=480,
        accumulate=5,
        eval_batch_size=96,
        eval_every=5000,
        log_every=50,
        dtype="bfloat16",
    )
