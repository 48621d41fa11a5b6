"""Variational autoencoder."""

from jaxmodels.families.family import Family
from jaxmodels.families.vae.model import VAE, vae, vae_conv
from jaxmodels.families.vae.original import CASES, original
from jaxmodels.families.vae.weights import FORMATS

PRESETS = {
    "vae": vae,
    "vae_conv": vae_conv,
}

FAMILY = Family(
    VAE,
    PRESETS,
    inputs=("image",),
    outputs=("vae",),
    formats=FORMATS,
    original=original,
    cases=CASES,
)
