"""The VAE in ``torch.nn``, and its certificates."""

import itertools
import math

from jaxmodels.families.vae.model import VAE
from jaxmodels.foreign.original import (
    Case,
    Original,
    Shape,
    activation,
    require_defaults,
)


def original(model: VAE, shape: Shape) -> Original:
    """The VAE of Kingma & Welling 2014 in ``torch.nn``.

    Dropout and all, in training mode, with its own random initial values.

    Raises:
      OriginalError: there is none with these fields, or its library is not installed.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    class TorchVAE(nn.Module):
        """As in pytorch/examples, or with convolutions; the noise is an input."""

        def __init__(self, model: VAE, shape: Shape):
            super().__init__()
            height, width, channels = shape
            self.conv, self.activation = model.kind == "conv", activation(model.activation)
            if self.conv:
                unit, sizes = 2 ** len(model.features), [channels, *model.features]
                self.map = (sizes[-1], height // unit, width // unit)
                flat = math.prod(self.map)
                self.encoder_conv = nn.ModuleList(
                    nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(sizes)
                )
                self.decoder_dense = nn.ModuleList([nn.Linear(model.latent_size, flat)])
                pairs = itertools.pairwise(sizes[::-1])
                self.decoder_conv = nn.ModuleList(
                    nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairs
                )
            else:
                sizes, flat = [math.prod(shape), *model.hidden_sizes], model.hidden_sizes[-1]
                self.map = (channels, height, width)
                self.encoder_dense = nn.ModuleList(
                    nn.Linear(a, b) for a, b in itertools.pairwise(sizes)
                )
                pairs = itertools.pairwise([model.latent_size, *model.hidden_sizes[::-1]])
                self.decoder_dense = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
                self.decoder_out = nn.Linear(model.hidden_sizes[0], math.prod(shape))
            self.mean, self.log_variance = (
                nn.Linear(flat, model.latent_size),
                nn.Linear(flat, model.latent_size),
            )
            self.log_sigma = (
                nn.Parameter(torch.zeros(())) if model.likelihood == "gaussian" else None
            )

        def forward(self, x, noise):
            if self.conv:
                for layer in self.encoder_conv:
                    x = self.activation(layer(x))
            x = x.flatten(1)
            if not self.conv:
                for layer in self.encoder_dense:
                    x = self.activation(layer(x))
            mean, log_variance = self.mean(x), self.log_variance(x)
            z = mean + torch.exp(0.5 * log_variance) * noise
            for layer in self.decoder_dense:
                z = self.activation(layer(z))
            z = (
                z.unflatten(1, self.map)
                if self.conv
                else self.decoder_out(z).unflatten(1, self.map)
            )
            if self.conv:
                for i, layer in enumerate(self.decoder_conv):
                    z = layer(self.activation(z) if i else z)
            return z, mean, log_variance

    require_defaults(model, image_shape=tuple(shape))
    module = TorchVAE(model, shape)

    def loss(outputs, batch):
        decoded, mean, log_variance = outputs
        if module.log_sigma is None:
            reconstruction = F.binary_cross_entropy_with_logits(
                decoded, batch["image"], reduction="sum"
            )
        else:
            normal = torch.distributions.Normal(decoded, module.log_sigma.exp())
            reconstruction = -normal.log_prob(batch["image"]).sum()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()
        return (reconstruction + kl) / len(decoded)

    source = "Kingma & Welling 2014 in torch.nn"
    return Original(
        module, source, "torch", main=lambda outputs: outputs[0].permute(0, 2, 3, 1), loss=loss
    )


CASES = tuple(
    Case(name, (28, 28, 1), (28, 28, 1), batch_size=8, timing_batch_size=128, objective="elbo")
    for name in ("vae", "vae_conv")
)
