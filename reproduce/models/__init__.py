"""The GoogLeNet family: networks, their cost, their receptive fields, and weights in public layouts.

A `NetworkConfig` comes in. A network goes out, or numbers that follow from its structure.
"""

from reproduce.models.googlenet import STAGES, GoogLeNet, Outputs, stage_parameters

__all__ = ["STAGES", "GoogLeNet", "Outputs", "stage_parameters"]
