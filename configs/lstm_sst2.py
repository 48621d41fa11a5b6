"""LSTM of both directions that tells praise from blame: the classic embedding, LSTM, linear text
classifier.

Command    python -m train --config=configs/lstm_sst2.py --workdir=runs/lstm_sst2
           python -m train.evaluate --workdir=runs/lstm_sst2 --split=test
           python -m train.predict --workdir=runs/lstm_sst2 "a gripping film" "a waste of time"
Data       SST-2, whole sentences: 6,920 / 872 / 1,821, 2 classes; words seen in training, uncased;
           fetched, or
           --config.data.raw_dir=DIR with train.tsv, dev.tsv, test.tsv
Measured   test accuracy 0.808 (precision, recall, F1: negative 0.837, 0.766, 0.800; positive 0.784,
           0.850, 0.816) after 1,100 steps, 10 epochs, 3 minutes on one core; validation 0.796, its
           loss by epoch 0.648, 0.555, 0.487, 0.459, 0.450, 0.449, 0.453, 0.453, 0.455, 0.457
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="bilstm",
        model_fields={"embed_size": 128, "hidden_size": 128, "num_layers": 1, "dropout_rate": 0.5},
        task="classification",
        data=DataConfig(
            name="sst2", eval_split="validation", tokenizer="words", vocab_size=6_000, max_len=64
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=3e-3,
            warmup_steps=50,
            weight_decay=0.1,
            clip_norm=1.0,
            ema_decay=0.99,
        ),
        checkpoint=CheckpointConfig(every=500),
        options={"label_smoothing": 0.1},
        steps=1_100,
        batch_size=64,
        eval_batch_size=256,
        eval_every=110,
        log_every=110,
    )
