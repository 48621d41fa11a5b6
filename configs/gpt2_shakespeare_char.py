"""GPT-2 of 10.8 million parameters on Tiny Shakespeare, character by character: for a GPU or TPU.

Command    python -m train --config=configs/gpt2_shakespeare_char.py --workdir=runs/shakespeare
           python -m train.generate --workdir=runs/shakespeare --step=best --prompt="ROMEO:"
               --temperature=0.8
Data       Tiny Shakespeare (Karpathy 2015): 1,003,854 characters to train on, 111,540 to validate;
           65 different ones
Measured   not yet: no accelerator was at hand
Published  best validation loss 1.4697 (nanoGPT's README: 3 minutes on an A100)
Model      Radford et al. 2019, 6 layers of 384 features, windows of 256; nanoGPT leaves out the
           biases, here they are
"""

from train.config import CheckpointConfig, Config, DataConfig, OptimConfig


def get_config() -> Config:
    return Config(
        model="gpt2_tiny",
        model_fields={
            "num_layers": 6,
            "num_heads": 6,
            "hidden_size": 384,
            "mlp_dim": 1536,
            "embedding_dropout_rate": 0.2,
            "dropout_rate": 0.2,
            "attention_dropout_rate": 0.2,
            "scan": True,
        },
        task="causal_lm",
        data=DataConfig(
            name="tiny_shakespeare",
            eval_split="validation+test",
            tokenizer="characters",
            max_len=256,
        ),
        optim=OptimConfig(
            name="adamw",
            learning_rate=1e-3,
            warmup_steps=100,
            end_factor=0.1,
            weight_decay=0.1,
            clip_norm=1.0,
            b2=0.99,
        ),
        checkpoint=CheckpointConfig(every=500),
        steps=5_000,
        batch_size=64,
        eval_batch_size=64,
        eval_every=250,
        log_every=50,
    )
