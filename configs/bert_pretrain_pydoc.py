"""BERT of 0.9 million parameters pretrained on the language reference that Python carries with it:
no download.

Command    python -m train --config=configs/bert_pretrain_pydoc.py
           --workdir=runs/bert_pretrain_pydoc
Data       pydoc: 79 topics, 0.46 MB (Python 3.11), the last tenth of each for the test; WordPiece
           of 2,048 tokens
Measured   masked tokens 29.7% right (the most frequent token: 5.8%), next sentence 71.5% (by chance
           50%; 214 pairs), after 3,000 steps, 17 minutes on one shared core, Python 3.11; of the
           training text 38.8% and 81.9%
Model      Devlin et al. 2019 (arXiv:1810.04805), 2 layers of 128 features: masked tokens and next
           sentence
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="bert_tiny",
        task="masked_lm",
        data=DataConfig(name="pydoc", tokenizer="wordpiece", vocab_size=2048, max_len=64),
        optim=OptimConfig(
            name="adamw",
            learning_rate=1e-3,
            warmup_steps=200,
            schedule="linear",
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        checkpoint=CheckpointConfig(every=1_000),
        steps=3_000,
        batch_size=64,
        eval_batch_size=128,
        eval_every=500,
        log_every=100,
    )
