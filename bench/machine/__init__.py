"""Describes this machine: its CPU, GPUs and file systems, and the environment that is recorded with each result.

The package queries the operating system, NVML and git, and returns plain values and dictionaries. It imports only
`reproduce`.
"""
