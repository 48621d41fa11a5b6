"""Encoder-decoder Transformer of 2.1 million parameters: captions of photographs from English to
German.

Command    python -m train --config=configs/transformer_multi30k_en_de.py --workdir=runs/multi30k
           python -m train.evaluate --workdir=runs/multi30k --split=test
           python -m train.generate --workdir=runs/multi30k --prompt="A dog runs through the snow."
Data       Multi30k, task 1: 29,000 pairs, test_2016_flickr (1,000); joint byte-level BPE of 6,000
           tokens; fetched, or
           --config.data.raw_dir=DIR with train.en.gz, train.de.gz, val..., test_2016_flickr...
Measured   BLEU 38.1 on test_2016_flickr (sacrebleu:
           nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0), 4 beams, perplexity 5.53,
           after 5,000 steps, 53 minutes on one core
           A person is looking at the computer on a desk with a phone and a box.
             -> Eine Person betrachtet den Computer an einem Schreibtisch mit einem Telefon und
             einer Kiste.
           A young couple sits on the sidewalk and relaxes together.
             -> Ein junges Paar sitzt auf dem Gehweg und entspannt zusammen.
           Santa Claus being photographed at a holiday media event.
             -> Der Weihnachtsmannpieler wird bei einer nächsten Veranstaltung fotografiert.    (a
             wrong one)
Model      Vaswani et al. 2017 (arXiv:1706.03762) with norms first, 4 + 4 layers of 128 features:
           the "tiny" size of Wu et al. 2021 (arXiv:2105.14462), who report BLEU 41.0 after longer
           training
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="transformer_tiny",
        model_fields={
            "num_layers": 4,
            "num_heads": 4,
            "hidden_size": 128,
            "mlp_dim": 256,
            "norm_first": True,
            "dropout_rate": 0.1,
            "attention_dropout_rate": 0.0,
            "activation_dropout_rate": 0.1,
        },
        task="seq2seq",
        data=DataConfig(
            name="multi30k",
            eval_split="validation",
            tokenizer="bpe",
            vocab_size=6_000,
            max_len=64,
            texts=("en", "de"),
            buckets=(16, 24, 40),
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=4e-3,
            schedule="rsqrt",
            warmup_steps=500,
            b2=0.98,
            eps=1e-9,
            clip_norm=1.0,
        ),
        checkpoint=CheckpointConfig(every=500),
        options={"label_smoothing": 0.1},
        steps=5_000,
        batch_size=128,
        eval_batch_size=128,
        eval_every=500,
        log_every=100,
    )
