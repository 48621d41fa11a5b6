"""GPT-2 1.5B on OpenWebText, for a TPU v5e slice of 16 chips: half a million tokens a step.

Command    python -m train --config=configs/gpt2_1558m_openwebtext.py --workdir=runs/gpt2_1558m
Data       OpenWebText, see configs/gpt2_124m_openwebtext.py
Measured   not here: neither the data nor the slice are at hand
Plan       python -m train.plan --config=configs/gpt2_1558m_openwebtext.py --topology=v5e:4x4
Published  perplexity 17.5 on WikiText-103 without training on it (Radford et al. 2019, table 3),
           from 40 GB of WebText
Model      Radford et al. 2019; the vocabulary is padded to a multiple of 128. The learning rate is
           that of the model of 1.3 billion parameters in Brown et al. 2020, table 2.1; the rest is
           nanoGPT's
"""

from train.config import CheckpointConfig, Config, DataConfig, MeshConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="gpt2_1558m",
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
            learning_rate=2e-4,
            warmup_steps=2_000,
            end_factor=0.1,
            weight_decay=0.1,
            clip_norm=1.0,
            b2=0.95,
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        checkpoint=CheckpointConfig(every=1000),
        steps=600_000,
        batch_size=512,
        accumulate=8,
        eval_batch_size=64,
        eval_every=5000,
        log_every=50,
        dtype="bfloat16",
    )
