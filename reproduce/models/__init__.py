"""The GoogLeNet family: networks, their cost, their graphs, and weights of other layouts.

A `NetworkConfig` comes in; a network, or figures that follow from its structure, go out.
"""

from reproduce.models.googlenet import STAGES, GoogLeNet, Outputs, stage_parameters

__all__ = ["STAGES", "GoogLeNet", "Outputs", "stage_parameters"]
