"""Models of an image and a text: fusion for classification, and a dual encoder for retrieval.

Kinds of fusion after Baltrusaitis et al. 2019 (arXiv:1705.09406, section 6): *direct* (one
transformer over patches and tokens, as ViLT, Kim et al. 2021), of *features* (side by side; a
weighted sum; the outer product of Zadeh et al. 2017, arXiv:1707.07250; attention of each to the
other, as ViLBERT, Lu et al. 2019), of *decisions* (a mean of probabilities, with equal or learned
weights). The dual encoder is CLIP's (Radford et al. 2021, arXiv:2103.00020).

Encoders are classifiers of this library without their heads: see :mod:`jaxmodels.adapt.features`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from flax.core import FrozenDict
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.adapt.features import Features, features
from jaxmodels.families.bert import model as bert
from jaxmodels.families.cnn.model import CNN
from jaxmodels.families.lstm.model import bilstm, lstm
from jaxmodels.families.resnet.model import resnet18, resnet20, resnet50
from jaxmodels.families.vit.model import vit_s_16, vit_ti_16
from jaxmodels.nn.attention import AttentionMask, MultiHeadAttention, require_attention
from jaxmodels.nn.layers import (
    Dense,
    LayerNorm,
    at_least_float32,
    freeze_fields,
    he_normal,
    lecun_normal,
    normal,
    require_choice,
    require_positive,
    require_rate,
    unit_length,
    zeros,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh
from jaxmodels.nn.stack import run_stack

FUSIONS = (
    "image",
    "text",
    "direct",
    "concat",
    "sum",
    "outer",
    "cross_attention",
    "mean",
    "learned",
)
"""One modality alone; one model over both; four of features; two of decisions."""

IMAGE_ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "cnn": partial(CNN, features=(32, 64, 128), pool="each"),
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet50": resnet50,
    "vit_ti_16": vit_ti_16,
    "vit_s_16": vit_s_16,
}
TEXT_ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "lstm": lstm,
    "bilstm": bilstm,
    "bert_tiny": partial(bert.bert_tiny, head="classification"),
    "minilm_l6": partial(bert.minilm_l6, head="classification"),
    "bert_base": partial(bert.bert_base, head="classification"),
}


@on_any_mesh
class Fusion(nn.Module):
    """Classifies what an image and a text are of; either may be missing.

    An image or text that is missing has no weight in sums, means and attention; where a feature is
    needed all the same, a learned vector stands for it.

    Attributes:
      num_classes: number of logits; vocab_size: of tokens; max_len: of a text.
      fusion: of :data:`FUSIONS`.
      image_encoder: of :data:`IMAGE_ENCODERS`, with image_fields; text_encoder: of
        :data:`TEXT_ENCODERS`, with text_fields. Fusion direct has none.
      hidden_size: of each modality's features, and of what fuses them.
      outer_size: of each modality's features where their outer product is taken; a 1 is put beside
        them, so that the product holds them alone too.
      num_layers, num_heads, mlp_dim: of the transformer of fusion direct; heads also of
        cross_attention.
      patch_size: in pixels; fusion direct.
      dropout_rate: before the classifier, and in fusion direct everywhere that BERT has it.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    num_classes: int
    vocab_size: int
    max_len: int = 64
    fusion: str = "concat"
    image_encoder: str = "cnn"
    image_fields: Mapping[str, Any] = FrozenDict()
    text_encoder: str = "lstm"
    text_fields: Mapping[str, Any] = FrozenDict()
    hidden_size: int = 128
    outer_size: int = 32
    num_layers: int = 4
    num_heads: int = 4
    mlp_dim: int = 512
    patch_size: int = 8
    dropout_rate: float = 0.1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        freeze_fields(self, "image_fields", "text_fields")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b h w c"],
        tokens: Int[Array, "b l"],
        segments: Int[Array, "b l"] | None = None,
        present: Bool[Array, "b 2"] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "b classes"]:
        """Float32 (or wider) logits; of fusion mean and learned, logarithms of probabilities.

        Args:
          segments: of each token; 0 is padding. None: no padding.
          present: whether the image and the text are there. None: both are. What stands for a
            missing one has no influence, but for an encoder with batch norm in training: its
              statistics are of all that are given.

        Raises:
          ValueError: a field does not fit.
        """
        self._check(*image.shape[1:3])
        if segments is None:
            segments = jnp.ones_like(tokens)
        if present is None:
            present = jnp.ones((len(tokens), 2), bool)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = partial(Dense, self.hidden_size, kernel_init=he_normal, **dtypes)
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        head = partial(Dense, self.num_classes, kernel_init=lecun_normal, **dtypes)

        def encoded(modality: str) -> Features:
            if modality == "image":
                encoder, inputs = encoder_of(self, "image"), (image,)
            else:
                encoder, inputs = encoder_of(self, "text"), (tokens, segments)
            return features(encoder, *inputs, train=train)

        def one(modality: str) -> Array:
            """Features [b, hidden] of a modality, or of its being missing."""
            x = nn.relu(dense(name=f"dense_{modality}")(encoded(modality).whole))
            missing = self.param(
                f"missing_{modality}", zeros, (self.hidden_size,), self.param_dtype
            )
            return jnp.where(
                present[:, MODALITIES.index(modality), None], x, missing.astype(x.dtype)
            )

        def weights(name: str) -> Array:
            """Learned weights [b, 2] of the modalities that are there."""
            return modality_weights(self.param(name, zeros, (2,), self.param_dtype), present)

        if self.fusion in ("mean", "learned"):
            decided = [
                at_least_float32(
                    head(name=f"head_{modality}")(
                        dropout(name=f"dropout_{modality}")(one(modality))
                    )
                )
                for modality in MODALITIES
            ]
            logits = jnp.stack(decided, 1)  # [b, 2, classes]
            weight = (
                weights("weights")
                if self.fusion == "learned"
                else modality_weights(jnp.zeros(2), present)
            )
            log_weight = jnp.log(jnp.maximum(weight, jnp.finfo(weight.dtype).tiny))
            return jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_weight[..., None], axis=1)
        if self.fusion in MODALITIES:
            x = one(self.fusion)
        elif self.fusion == "concat":
            x = nn.relu(
                dense(name="dense_fused")(jnp.concatenate([one(m) for m in MODALITIES], -1))
            )
        elif self.fusion == "sum":
            x = jnp.einsum(
                "bm,bmd->bd",
                weights("weights").astype(self.dtype),
                jnp.stack([one(m) for m in MODALITIES], 1),
            )
            x = nn.relu(dense(name="dense_fused")(x))
        elif self.fusion == "outer":
            small = [
                Dense(self.outer_size, name=f"dense_outer_{m}", **dtypes)(one(m))
                for m in MODALITIES
            ]
            first, second = (jnp.pad(x, ((0, 0), (0, 1)), constant_values=1) for x in small)
            product = jnp.einsum("bi,bj->bij", first, second)
            x = nn.relu(dense(name="dense_fused")(rearrange(product, "b i j -> b (i j)")))
        elif self.fusion == "cross_attention":
            x = nn.relu(
                dense(name="dense_fused")(self._attended(encoded, segments, present, train))
            )
        else:
            x = self._direct(image, tokens, segments, present, train)
        return at_least_float32(head(name="head")(dropout(name="dropout_head")(constrain_batch(x))))

    def _attended(
        self, encoded: Callable[[str], Features], segments: Array, present: Array, train: bool
    ) -> Float[Array, "b e"]:
        """Every modality's places with what they attend to in the other; their means side by
        side."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        places, groups = {}, {}
        for m, modality in enumerate(MODALITIES):
            found = encoded(modality).places
            if found is None:
                raise ValueError(
                    f"{modality}_encoder has no places to attend to, which fusion "
                    "'cross_attention' needs"
                )
            places[modality] = Dense(self.hidden_size, name=f"dense_{modality}", **dtypes)(found)
            there = present[:, m, None]
            groups[modality] = (
                (segments > 0) & there
                if modality == "text"
                else jnp.broadcast_to(there, found.shape[:2])
            )
        means = []
        for modality, other in (MODALITIES, MODALITIES[::-1]):
            x, memory = places[modality], places[other]
            y = MultiHeadAttention(
                num_heads=self.num_heads,
                dropout_rate=self.dropout_rate,
                train=train,
                backend="einsum",
                kernel_init=lecun_normal,
                out_init=lecun_normal,
                name=f"{modality}_cross_attention",
                **dtypes,
            )(
                x,
                memory,
                AttentionMask(jnp.ones(x.shape[:2], jnp.int32), groups[other].astype(jnp.int32)),
            )
            # nothing to attend to
            y = jnp.where(present[:, MODALITIES.index(other), None, None], y, 0)
            x = LayerNorm(1e-5, name=f"norm_{modality}", **dtypes)(x + y)
            means.append(bert.token_mean(x, groups[modality].astype(jnp.int32)))
        return jnp.concatenate(means, -1)

    def _direct(
        self, image: Array, tokens: Array, segments: Array, present: Array, train: bool
    ) -> Float[Array, "b d"]:
        """A class token, patches and tokens through one encoder, as BERT's; the class token's
        features."""
        size, p = self.hidden_size, self.patch_size
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        embed = partial(nn.Embed, features=size, embedding_init=normal(0.02), **dtypes)
        patches = rearrange(image, "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p)
        patches = Dense(size, kernel_init=lecun_normal, name="patch_embed", **dtypes)(patches)
        position = self.param(
            "position", normal(0.02), (1, patches.shape[1], size), self.param_dtype
        )
        words = embed(self.vocab_size, name="token_embed")(tokens)
        words += embed(self.max_len, name="position_embed")(jnp.arange(tokens.shape[1]))
        first = self.param("class_token", normal(0.02), (1, 1, size), self.param_dtype).astype(
            words.dtype
        )
        x = jnp.concatenate(
            [
                jnp.broadcast_to(first, (len(words), 1, size)),
                patches + position.astype(patches.dtype),
                words,
            ],
            1,
        )
        there = present.astype(jnp.int32)
        groups = jnp.concatenate(
            [
                jnp.ones((len(words), 1), jnp.int32),
                jnp.broadcast_to(there[:, :1], patches.shape[:2]),
                (segments > 0) * there[:, 1:],
            ],
            1,
        )
        x = LayerNorm(1e-12, name="norm", **dtypes)(x)  # BERT's epsilon
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        fields = {
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "activation": "gelu",
            "norm_eps": 1e-12,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.dropout_rate,
            "attention": "einsum",
            "train": train,
            **dtypes,
        }
        mask, depth = (
            AttentionMask(groups, groups),
            {"num_layers": self.num_layers, "scan": False, "remat": False},
        )
        return run_stack(
            self, bert.EncoderBlock, fields, constrain_batch(x, "tokens"), mask, **depth
        )[:, 0]

    def _check(self, height: int, width: int) -> None:
        require_positive(
            num_classes=self.num_classes, vocab_size=self.vocab_size, max_len=self.max_len
        )
        require_positive(
            hidden_size=self.hidden_size, outer_size=self.outer_size, num_layers=self.num_layers
        )
        require_positive(mlp_dim=self.mlp_dim, patch_size=self.patch_size)
        require_rate(dropout_rate=self.dropout_rate)
        require_choice("fusion", self.fusion, FUSIONS)
        if self.fusion in ("direct", "cross_attention"):
            require_attention(
                backend="einsum",
                num_heads=self.num_heads,
                hidden_size=self.hidden_size,
                dropout_rate=self.dropout_rate,
            )
        if self.fusion == "direct" and (height % self.patch_size or width % self.patch_size):
            raise ValueError(
                f"an image of {height}x{width} is not divisible by patch_size {self.patch_size}"
            )


MODALITIES = ("image", "text")


def modality_weights(scores: Float[Array, "2"], present: Bool[Array, "b 2"]) -> Float[Array, "b 2"]:
    """Softmax of the scores over the modalities that are there; over both where none is."""
    there = present | ~present.any(1, keepdims=True)
    return jax.nn.softmax(jnp.where(there, at_least_float32(scores), -jnp.inf))


def encoder_of(module: "Fusion | DualEncoder", modality: str) -> nn.Module:
    """The encoder of a modality that the fields name, as sub-module ``image`` or ``text``; its head
    is never run.

    Raises:
      ValueError: unknown encoder or field.
    """
    if modality == "image":
        name, known, own, more = module.image_encoder, IMAGE_ENCODERS, module.image_fields, {}
    else:
        name, known, own, more = (
            module.text_encoder,
            TEXT_ENCODERS,
            module.text_fields,
            {"vocab_size": module.vocab_size},
        )
        if name not in ("lstm", "bilstm"):
            more["max_len"] = module.max_len
    require_choice(f"{modality}_encoder", name, tuple(known))
    fields: Mapping[str, Any] = {"num_classes": 1, **more, **own}
    try:
        return known[name](
            **fields, dtype=module.dtype, param_dtype=module.param_dtype, name=modality
        )
    except TypeError as e:
        raise ValueError(f"{modality}_fields {dict(own)} do not fit {name!r}: {e}") from e


def has_text_encoder(model: nn.Module) -> bool:
    """Whether the texts of a model go through an encoder of their own, sub-module ``text``."""
    return isinstance(model, DualEncoder) or (
        isinstance(model, Fusion) and model.fusion not in ("direct", "image")
    )


class ContrastiveOutputs(NamedTuple):
    """Embeddings of length 1, and the inverse temperature of their products."""

    image: Float[Array, "b d"]
    text: Float[Array, "b d"]
    scale: Float[Array, ""]


@on_any_mesh
class DualEncoder(nn.Module):
    """An image encoder and a text encoder into one space; fields as in :class:`Fusion`.

    Attributes:
      embed_size: of the common space.
      temperature: at the beginning; it is learned, and held at 0.01 or above as CLIP's.
    """

    vocab_size: int
    max_len: int = 64
    image_encoder: str = "cnn"
    image_fields: Mapping[str, Any] = FrozenDict()
    text_encoder: str = "lstm"
    text_fields: Mapping[str, Any] = FrozenDict()
    embed_size: int = 128
    temperature: float = 0.07
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        freeze_fields(self, "image_fields", "text_fields")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b h w c"],
        tokens: Int[Array, "b l"],
        segments: Int[Array, "b l"] | None = None,
        *,
        train: bool,
    ) -> ContrastiveOutputs:
        """Embeddings in float32 (or wider).

        Raises:
          ValueError: a field does not fit.
        """
        require_positive(embed_size=self.embed_size, vocab_size=self.vocab_size)
        if not 0.01 <= self.temperature:
            raise ValueError(f"temperature {self.temperature} must be at least 0.01")
        embedded = []
        for modality, inputs in (("image", (image,)), ("text", (tokens, segments))):
            x = constrain_batch(features(encoder_of(self, modality), *inputs, train=train).whole)
            x = at_least_float32(
                Dense(
                    self.embed_size,
                    use_bias=False,
                    kernel_init=lecun_normal,
                    name=f"dense_{modality}",
                    dtype=self.dtype,
                    param_dtype=self.param_dtype,
                )(x)
            )
            embedded.append(unit_length(x))
        log_scale = self.param(
            "log_scale", lambda key: jnp.log(jnp.asarray(1 / self.temperature, self.param_dtype))
        )
        return ContrastiveOutputs(
            *embedded, jnp.minimum(jnp.exp(at_least_float32(log_scale)), 100.0)
        )


def fusion(**fields: Any) -> Fusion:
    """Image and text, a CNN and an LSTM by default; see :class:`Fusion`.

    818,499 parameters for 32x32 colour images, 10 tokens and 3 classes.
    """
    return Fusion(**fields)


def dual_encoder(**fields: Any) -> DualEncoder:
    """CLIP's objective (Radford et al. 2021) for a CNN and an LSTM by default.

    784,705 parameters for 32x32 colour images and 10 tokens.
    """
    return DualEncoder(**fields)
