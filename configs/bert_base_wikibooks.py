"""BERT base on Wikipedia and books: the recipe of its paper, first phase.

Command    python -m train --config=configs/bert_base_wikibooks.py --workdir=runs/bert_base
           --config.data.raw_dir=DIR
Data       Wikipedia and BookCorpus, 3.3 billion words, as your own files: DIR has .jsonl files
           train... and valid..., each line {"text": "a document"}; the tokenizer is the hub's
Measured   not here: it builds and its sizes are tested; the data and the 16 accelerators it is made
           for are not at hand
Published  next sentence 97 to 98% accurate (Devlin et al. 2019, footnote 5); fine-tuned, MNLI 84.6
           / 83.4 (table 1)
Model      Devlin et al. 2019, appendix A.2: 1,000,000 steps of 256 texts, the first 900,000 of 128
           tokens as here; for the rest --config.init_from=runs/bert_base --config.init_skip="()"
           --config.data.max_len=512 --config.steps=100000 --config.optim.learning_rate=1e-5
           --config.optim.warmup_steps=0
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="bert_base",
        model_fields={"max_len": 512, "scan": True},
        task="masked_lm",
        data=DataConfig(
            name="text_files",
            eval_split="validation",
            tokenizer="google-bert/bert-base-uncased",
            vocab_size=30_522,
            max_len=128,
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=1e-4,
            schedule="linear",
            warmup_steps=10_000,
            end_factor=0.1,
            weight_decay=0.01,
            clip_norm=1.0,
            eps=1e-6,
        ),
        checkpoint=CheckpointConfig(every=5_000),
        steps=900_000,
        batch_size=256,
        eval_batch_size=256,
        eval_every=10_000,
        log_every=100,
        dtype="bfloat16",
    )
