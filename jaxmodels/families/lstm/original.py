"""The LSTM classifier in ``torch.nn``, and its certificates."""

from jaxmodels.families.lstm.model import LSTMClassifier
from jaxmodels.foreign.original import Case, Original, Shape


def original(model: LSTMClassifier, shape: Shape) -> Original:
    """The usual text classifier in ``torch.nn``, with its own random initial values."""
    from torch import nn

    class TorchLSTMClassifier(nn.Module):
        """The usual text classifier over packed texts; ``segments`` are 1, and 0 for padding at the
        right."""

        def __init__(self, model: LSTMClassifier):
            super().__init__()
            self.embedding = nn.Embedding(model.vocab_size, model.embed_size)
            self.lstm = nn.LSTM(
                model.embed_size,
                model.hidden_size,
                model.num_layers,
                batch_first=True,
                # there is no place for it, and a warning
                dropout=model.dropout_rate if model.num_layers > 1 else 0.0,
                bidirectional=model.bidirectional,
            )
            self.dropout = nn.Dropout(model.dropout_rate)
            self.directions = 1 + model.bidirectional
            self.fc = nn.Linear(self.directions * model.hidden_size, model.num_classes)

        def forward(self, tokens, segments=None):
            x = self.dropout(self.embedding(tokens))
            if segments is not None:
                lengths = (segments > 0).sum(1).cpu()
                x = nn.utils.rnn.pack_padded_sequence(
                    x, lengths, batch_first=True, enforce_sorted=False
                )
            _, (final, _) = self.lstm(x)  # [layers x directions, b, h]
            return self.fc(self.dropout(final[-self.directions :].transpose(0, 1).flatten(1)))

    return Original(TorchLSTMClassifier(model), "torch.nn", "torch")


CASES = (
    *(
        Case(
            name,
            (),
            (),
            length=17,
            batch_size=8,
            timing_batch_size=32,
            classes=101,
            full_classes=20_000,
            note="vocabulary of 101",
        )
        for name in ("lstm", "bilstm")
    ),
)
