"""The logits of all classifiers of a trained network, the auxiliary ones included."""

from __future__ import annotations

from torch import Tensor, nn

from reproduce.export.description import HEADS, LOGITS
from reproduce.models import GoogLeNet


class AllLogits(nn.Module):
    """A network in evaluation mode whose outputs are the logits of all its classifiers.

    Args:
        network: The network, whose mode changes.
    """

    def __init__(self, network: GoogLeNet) -> None:
        super().__init__()
        self.network = network.eval()
        self.network.training = True  # the network's own flag asks for the classifiers; its layers keep theirs
        self.names = (LOGITS, *(head for head in HEADS if getattr(network, head) is not None))
        """Names of the outputs, in their order."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute logits, each [N, classes], from normalised images [N, 3, H, W]."""
        return tuple(output for output in self.network(images) if output is not None)
