"""Says whether torchvision's googlenet can load a network, and what differs where it cannot."""

from __future__ import annotations

from reproduce.export.description import HEADS
from reproduce.models import GoogLeNet
from reproduce.spec import NetworkConfig

DIFFERENT: dict[str, dict[str, str]] = {
    "norm": {"none": "its convolutions have biases in place of batch normalisation"},
    "large_kernel": {"5x5": "the third branch of its modules has 5x5 kernels, torchvision's has 3x3"},
    "pooling": {"paper": "its pool before module 5a covers 3x3 pixels, torchvision's 2x2"},
    "reduction": {
        "unreduced": "its 3x3 and 5x5 convolutions have no 1x1 reductions before them",
        "naive": "its modules have no 1x1 reductions and grow from one to the next",
    },
    "branches": {
        kernel: f"its modules have a single branch of {kernel} convolutions" for kernel in ("1x1", "3x3", "5x5")
    },
    "head": {"fc": "its main classifier has a fully connected layer before the last one"},
}
"""What sets a network apart from torchvision's, by the field of `NetworkConfig` and its value."""


def differences(network: GoogLeNet) -> list[str]:
    """List in which ways a network differs from `torchvision.models.googlenet`, the network of the ports.

    Returns:
        One clause for each difference. If there is none, torchvision's network loads the state dict and computes the
        same logits.
    """
    found = [
        clauses[value] for field, clauses in DIFFERENT.items() if (value := getattr(network.config, field)) in clauses
    ]
    present = [head for head in HEADS if getattr(network, head) is not None]
    if len(present) == 1:
        found.append(f"it has the auxiliary classifier {present[0]} alone, torchvision's has both or none")
    return found


def loads_in(network: GoogLeNet) -> str:
    """Return the Python expression that makes a network into which the state dict is loaded, or that loads the file."""
    if differences(network):
        return "reproduce.export.loading.load(FILE)"
    return (
        f"torchvision.models.googlenet(num_classes={network.config.classes}, "
        f"aux_logits={network.aux1 is not None}, transform_input=False, init_weights=False).load_state_dict("
        "torch.load(FILE, weights_only=True))"
    )


def with_heads(network: GoogLeNet, *, heads: bool) -> GoogLeNet:
    """Keep or drop the auxiliary classifiers of a network, which is changed in place.

    Args:
        network: The network.
        heads: Whether to keep them.

    Returns:
        The same network. Its `config` says which classifiers it has.
    """
    if not heads:
        network.aux1 = network.aux2 = None
        network.config = NetworkConfig(**{**network.config.model_dump(), "aux": "none"})
    return network
