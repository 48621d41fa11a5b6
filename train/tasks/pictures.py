"""Samples, reconstructions and walks of a variational autoencoder, as grids of pixels."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from input_pipeline import image
from train import batches
from train.options.fields import ConfigError
from train.records import figures
from train.records.files import is_disk_full
from train.run import Run
from train.state import TrainState
from train.task import Report

COLUMNS = 8  # of every grid
SAMPLES = COLUMNS**2


def decode(
    run: Run, state: TrainState, latent: Float[Array, "b latent"]
) -> Float[Array, "b h w c"]:
    """The decoder's means for draws of z, as pixels in [0, 1]."""
    decoded = run.model.apply(_variables(run, state), latent, method="decode")
    means = jax.nn.sigmoid(decoded) if run.model.likelihood == "bernoulli" else decoded
    data = run.config.data
    return (means * jnp.asarray(data.std) + jnp.asarray(data.mean)).clip(0, 1)


def encode(
    run: Run, state: TrainState, images: UInt8[Array, "b h w c"]
) -> Float[Array, "b latent"]:
    """The means of q(z | x)."""
    normalised = image.normalize(images, run.config.data.mean, run.config.data.std)
    return run.model.apply(_variables(run, state), normalised, method="encode")[0]


def samples(run: Run, state: TrainState, seed: int, count: int) -> Float[Array, "b h w c"]:
    """Pixels of ``count`` draws of z from the prior; the first few do not depend on how many are
    drawn."""
    return decode(
        run, state, jax.random.normal(jax.random.key(seed), (count, run.model.latent_size))
    )


def grid(images: Float[Array, "b h w c"]) -> UInt8[Array, "height width c"]:
    """Images side by side, row by row; places that are left over are white."""
    missing = -len(images) % COLUMNS
    filled = jnp.concatenate([images, jnp.ones((missing, *images.shape[1:]), images.dtype)])
    pixels = rearrange(filled, "(row column) h w c -> (row h) (column w) c", column=COLUMNS)
    return jnp.round(255 * pixels).astype(jnp.uint8)


def compile_pictures(run: Run) -> Callable[[TrainState], dict[str, np.ndarray]]:
    """A function that draws ``samples`` (from the same z every time), ``reconstructions`` and a
    latent ``walk``.

    Reconstructions are rows of originals, each over a row of decoded means of q(z | x). Each row of
    the walk goes in equal steps from the encoding of one image to that of another. The images are
    the first of ``data.eval_split``.
    """
    shown = 2 * COLUMNS

    def pictures(state, images):
        latent = encode(run, state, images)
        pairs = rearrange(
            [images / 255, decode(run, state, latent)],
            "two (r n) h w c -> (r two n) h w c",
            n=COLUMNS,
        )
        share = jnp.linspace(0, 1, COLUMNS)[:, None]
        start, stop = rearrange(latent, "(r two) l -> two r 1 l", two=2)
        walk = rearrange((1 - share) * start + share * stop, "r n l -> (r n) l")
        return {
            "samples": grid(samples(run, state, run.config.seed, SAMPLES)),
            "reconstructions": grid(pairs),
            "walk": grid(decode(run, state, walk)),
        }

    everywhere = NamedSharding(run.mesh, P())
    images = batches.examples(run, run.config.data.eval_split, shown)["image"]
    images = jax.make_array_from_process_local_data(everywhere, images)
    compiled = jax.jit(pictures, out_shardings=everywhere).lower(run.shapes, images).compile()
    return lambda state: jax.device_get(compiled(state, images))


def _variables(run: Run, state: TrainState) -> dict:
    # every device draws everything, and jax.set_mesh is not in force: so the number of images need
    # not suit the mesh
    params = jax.lax.with_sharding_constraint(state.eval_params, NamedSharding(run.mesh, P()))
    return {"params": params, **state.model_state}


def write(run: Run, state: TrainState, given: Mapping[str, Any], args: Any) -> int:
    """Writes a grid of samples as a PNG file.

    Args:
      given: settings of the command line for texts, of which none matters.
      args: its other flags.
    """
    count = args.count or SAMPLES
    pixels = jax.jit(lambda state: grid(samples(run, state, args.seed, count)))(state)
    out = args.out or args.workdir / "samples" / f"generated_{int(state.step)}_seed_{args.seed}.png"
    try:
        figures.write_png(out, np.asarray(pixels))
    except OSError as e:
        if is_disk_full(e):
            raise
        raise ConfigError(
            f"{out} cannot be written: {e.strerror}; give another --out=FILE.png"
        ) from e
    print(f"wrote {out}: {count} samples of step {int(state.step)}")
    return 0


REPORT = Report("pictures", draw=compile_pictures, files=lambda *found: ("samples/",))
"""Pictures in ``samples/`` at every evaluation."""
