"""Models of an image and a text: classifiers, and a dual encoder for retrieval."""

from jaxmodels.families.family import Family
from jaxmodels.families.fusion.model import DualEncoder, Fusion, dual_encoder, fusion

FAMILY = Family(Fusion, {"fusion": fusion}, inputs=("image_text",), outputs=("logits",))
DUAL_ENCODER = Family(
    DualEncoder, {"dual_encoder": dual_encoder}, inputs=("image_text",), outputs=("pair",)
)
