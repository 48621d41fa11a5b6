"""GPT-2 of 1.1 million parameters on the language reference that Python carries with it: no
download, minutes on a CPU.

Command    python -m train --config=configs/gpt2_pydoc.py --workdir=runs/gpt2_pydoc
           python -m train.generate --workdir=runs/gpt2_pydoc --prompt="The for statement"
               --temperature=0.7
Data       pydoc: 79 topics, 0.46 MB (Python 3.11), the last tenth of each for the test; BPE of
           2,048 tokens
Measured   test loss 3.868 nats per token (perplexity 47.9, 1.73 bits per character) after 1,500
           steps, 6 minutes on 2 shared cores, Python 3.11; training text 2.232 (0.88 bits)
Model      Radford et al. 2019, 4 layers of 128 features, windows of 128 tokens
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="gpt2_tiny",
        task="causal_lm",
        data=DataConfig(name="pydoc", tokenizer="bpe", vocab_size=2048, max_len=128),
        optim=OptimConfig(
            name="adamw",
            learning_rate=2e-3,
            warmup_steps=100,
            end_factor=0.1,
            weight_decay=0.1,
            clip_norm=1.0,
            b2=0.99,
        ),
        checkpoint=CheckpointConfig(every=500),
        steps=1_500,
        batch_size=16,
        eval_batch_size=32,
        eval_every=250,
        log_every=50,
    )
