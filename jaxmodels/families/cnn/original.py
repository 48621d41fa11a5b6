"""The CNN in ``torch.nn``, and its certificate."""

import itertools

from jaxmodels.families.cnn.model import CNN
from jaxmodels.foreign.original import Case, Original, Shape


def original(model: CNN, shape: Shape) -> Original:
    """The same layers in ``torch.nn``, with its own random initial values."""
    from torch import nn
    from torch.nn import functional as F

    class TorchCNN(nn.Module):
        """Convolutions, pools, an optional dense layer and a classifier."""

        def __init__(self, model: CNN, shape: Shape):
            super().__init__()
            channels = [shape[2], *model.features]
            self.pool, height, width = model.pool, *shape[:2]
            self.convs = nn.ModuleList(
                nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(channels)
            )
            pools = {"none": 0, "last": 1, "each": len(model.features)}[model.pool]
            flat = channels[-1] * (height // 2**pools) * (width // 2**pools)
            self.dense = nn.Linear(flat, model.hidden_size) if model.hidden_size else None
            self.head = nn.Linear(model.hidden_size or flat, model.num_classes)
            self.dropout = nn.Dropout(model.dropout_rate)

        def forward(self, x):
            for i, conv in enumerate(self.convs):
                x = F.relu(conv(x))
                if self.pool == "each" or (self.pool == "last" and i == len(self.convs) - 1):
                    x = F.max_pool2d(x, 2)
            x = x.flatten(1)
            if self.dense is not None:
                x = F.relu(self.dense(self.dropout(x)))
            return self.head(self.dropout(x))

    return Original(TorchCNN(model, shape), "torch.nn", "torch")


CASES = (
    Case("cnn", (28, 28, 1), (28, 28, 1), batch_size=8, timing_batch_size=64, full_classes=10),
)
