"""Reads what the tracking store holds beside parameters and metrics: notes, raw telemetry and kept predictions.

Recorded runs come in (`analysis.frames.Recorded`), with the URI of their store. Descriptions of arms, telemetry over
time, accuracy by class and times to a target accuracy go out, as plain values, frames and tables.
"""
