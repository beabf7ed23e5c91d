"""The GoogLeNet family, its cost, and the weights of other layouts."""

from reproduce.models.googlenet import STAGES, GoogLeNet, Outputs, stage_parameters

__all__ = ["STAGES", "GoogLeNet", "Outputs", "stage_parameters"]
