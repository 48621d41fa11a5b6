"""Encoder-decoder Transformer on your own sentence pairs; here from English to Chinese, the help
pages of LibreOffice.

Command    python -m train --config=configs/transformer_pairs_en_zh.py --workdir=runs/en_zh
           --config.data.raw_dir=pairs
           python -m train.generate --workdir=runs/en_zh
               --prompt="Click the icon to open the dialog."
Data       train.tsv, valid.tsv, test.tsv with a tab between source and target; joint byte-level BPE
           of 8,000 tokens, which needs no segmentation of Chinese. These, on Debian:
           apt-get download libreoffice-help-en-us libreoffice-help-zh-cn
           for file in libreoffice-help-*.deb; do dpkg -x $file help; done
           python -m input_pipeline.help_pairs help/usr/share/libreoffice/help pairs
           (Debian 12: 21,050 / 500 / 500 pairs, pages of the help in one split each)
Measured   BLEU 36.5 on the 500 of test.tsv (sacrebleu:
           nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:2.6.0), 19.6% exact, perplexity 19.7,
           after 3,000 steps, 41 minutes on one shared core
           Choose Insert - Floating Frame.
             -> 选择「插入 - 浮动框架」。
           The spin buttons are for entering the numerical value of the color component.
             -> 「数值」按钮用于输入数字的值。    (a wrong one)
Model      as in configs/transformer_multi30k_en_de.py
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
            name="text_pairs",
            tokenizer="bpe",
            vocab_size=8_000,
            max_len=64,
            texts=("source", "target"),
            buckets=(12, 24, 40),
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
        options={"label_smoothing": 0.1, "bleu_tokenizer": "zh"},
        steps=3_000,
        batch_size=128,
        eval_batch_size=128,
        eval_every=500,
        log_every=100,
    )
