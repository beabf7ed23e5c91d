"""Draws the figures of a report.

Frames of runs, epochs, effects and telemetry come in. Plots go out, each with a title and a caption (`style`), which
the report's page shows as inline SVG and the report's folder holds as SVG and PNG. An arm has the same colour, marker
and line style in all of them.
"""
