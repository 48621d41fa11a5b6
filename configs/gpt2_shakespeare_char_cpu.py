"""GPT-2 of 0.8 million parameters on Tiny Shakespeare, character by character: minutes on a CPU.

Command    python -m train --config=configs/gpt2_shakespeare_char_cpu.py
           --workdir=runs/shakespeare_cpu
           python -m train.generate --workdir=runs/shakespeare_cpu --prompt="ROMEO:"
               --temperature=0.8
Data       Tiny Shakespeare (Karpathy 2015): 1,003,854 characters to train on, 111,540 to validate;
           65 different ones
Measured   validation loss 1.799 nats per character (2.59 bits) over all of it after 2,000 steps, 3
           minutes on 2 shared cores; with nanoGPT's learning rate of 1e-3, half of this one, 1.896
Published  validation loss 1.88 (nanoGPT's README: 4 layers, 128 wide, windows of 64, batch 12,
           2,000 steps, no dropout)
Model      Radford et al. 2019; nanoGPT has no biases in this run, here they are
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="gpt2_tiny",
        model_fields={
            "num_layers": 4,
            "num_heads": 4,
            "hidden_size": 128,
            "mlp_dim": 512,
            "embedding_dropout_rate": 0.0,
            "dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
        },
        task="causal_lm",
        data=DataConfig(
            name="tiny_shakespeare",
            eval_split="validation+test",
            tokenizer="characters",
            max_len=64,
        ),
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
        steps=2_000,
        batch_size=12,
        eval_batch_size=64,
        eval_every=250,
        log_every=100,
    )
