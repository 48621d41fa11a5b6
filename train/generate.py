"""Samples from a trained model: ``python -m train.generate --workdir=DIR [--step=best] [--count=64] [--out=FILE.png]``.

The same functions draw the pictures that a run leaves at every evaluation.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from input_pipeline import image
from train import cli, report
from train.checkpoint import is_disk_full
from train.config import ConfigError
from train.evaluate import for_this_machine, restore
from train.setup import Run, build
from train.state import TrainState
from train.workdir import read_card, read_config

COLUMNS = 8  # of every grid
SAMPLES = COLUMNS**2


def decode(run: Run, state: TrainState, latent: Float[Array, "b latent"]) -> Float[Array, "b h w c"]:
    """The decoder's means for draws of z, as pixels in [0, 1]."""
    decoded = run.model.apply(_variables(run, state), latent, method="decode")
    means = jax.nn.sigmoid(decoded) if run.model.likelihood == "bernoulli" else decoded
    data = run.config.data
    return (means * jnp.asarray(data.std) + jnp.asarray(data.mean)).clip(0, 1)


def encode(run: Run, state: TrainState, images: UInt8[Array, "b h w c"]) -> Float[Array, "b latent"]:
    """The means of q(z | x)."""
    normalised = image.normalize(images, run.config.data.mean, run.config.data.std)
    return run.model.apply(_variables(run, state), normalised, method="encode")[0]


def samples(run: Run, state: TrainState, seed: int, count: int) -> Float[Array, "b h w c"]:
    """Pixels of ``count`` draws of z from the prior; the first few do not depend on how many are drawn."""
    return decode(run, state, jax.random.normal(jax.random.key(seed), (count, run.model.latent_size)))


def grid(images: Float[Array, "b h w c"]) -> UInt8[Array, "height width c"]:
    """Images side by side, row by row; places that are left over are white."""
    missing = -len(images) % COLUMNS
    filled = jnp.concatenate([images, jnp.ones((missing, *images.shape[1:]), images.dtype)])
    pixels = rearrange(filled, "(row column) h w c -> (row h) (column w) c", column=COLUMNS)
    return jnp.round(255 * pixels).astype(jnp.uint8)


def compile_pictures(run: Run) -> Callable[[TrainState], dict[str, np.ndarray]]:
    """A function that draws ``samples`` (from the same z every time), ``reconstructions`` and a latent ``walk``.

    Reconstructions are rows of originals, each over a row of decoded means of q(z | x). Each row of the walk goes in
    equal steps from the encoding of one image to that of another. The images are the first of ``data.eval_split``.
    """
    shown = 2 * COLUMNS

    def pictures(state, images):
        latent = encode(run, state, images)
        pairs = rearrange([images / 255, decode(run, state, latent)], "two (r n) h w c -> (r two n) h w c", n=COLUMNS)
        share = jnp.linspace(0, 1, COLUMNS)[:, None]
        start, stop = rearrange(latent, "(r two) l -> two r 1 l", two=2)
        walk = rearrange((1 - share) * start + share * stop, "r n l -> (r n) l")
        return {
            "samples": grid(samples(run, state, run.config.seed, SAMPLES)),
            "reconstructions": grid(pairs),
            "walk": grid(decode(run, state, walk)),
        }

    everywhere = NamedSharding(run.mesh, P())
    images = run.examples(run.config.data.eval_split, shown)["image"]
    images = jax.make_array_from_process_local_data(everywhere, images)
    compiled = jax.jit(pictures, out_shardings=everywhere).lower(run.shapes, images).compile()
    return lambda state: jax.device_get(compiled(state, images))


def _variables(run: Run, state: TrainState) -> dict:
    # every device draws everything, and jax.set_mesh is not in force: so the number of images need not suit the mesh
    params = jax.lax.with_sharding_constraint(state.eval_params, NamedSharding(run.mesh, P()))
    return {"params": params, **state.model_state}


def main(argv: list[str] | None = None) -> int:
    """Writes a grid of samples as a PNG file."""
    parser = argparse.ArgumentParser(
        prog="python -m train.generate",
        description="Samples from a trained model. Now: images from a variational autoencoder (config.objective elbo).",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of a run")
    parser.add_argument("--step", default="last", help='checkpoint: "last" (default), "best" or a number')
    parser.add_argument("--count", type=int, default=SAMPLES, help=f"images, {COLUMNS} in a row; default {SAMPLES}")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same; default 0")
    parser.add_argument("--out", type=Path, help="PNG file; default: samples/generated_STEP_seed_N.png in the workdir")
    args = parser.parse_args(argv)
    if args.step not in ("last", "best") and not args.step.isdigit():
        parser.error(f"--step={args.step} is not last, best or a number")
    if args.count < 1:
        parser.error(f"--count={args.count} must be at least 1")
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed={args.seed} is not in 0 .. {2**32 - 1}")
    if args.out and args.out.suffix.lower() != ".png":
        parser.error(f"--out={args.out} is not a .png file")
    config = for_this_machine(read_config(args.workdir))
    if config.objective != "elbo":
        raise ConfigError(
            f"{args.workdir} is of a run with config.objective = {config.objective!r}, which draws nothing; give the "
            "workdir of a variational autoencoder, as configs/fashion_vae.py trains"
        )
    run = build(config, card=read_card(args.workdir))
    state = restore(run, args.workdir, args.step)
    pixels = jax.jit(lambda state: grid(samples(run, state, args.seed, args.count)))(state)
    out = args.out or args.workdir / "samples" / f"generated_{int(state.step)}_seed_{args.seed}.png"
    try:
        report.write_png(out, np.asarray(pixels))
    except OSError as e:
        if is_disk_full(e):
            raise
        raise ConfigError(f"{out} cannot be written: {e.strerror}; give another --out=FILE.png") from e
    print(f"wrote {out}: {args.count} samples of step {int(state.step)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
