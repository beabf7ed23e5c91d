"""What this machine is: CPU, GPUs through NVML, file systems, and the environment that is recorded with each result.

It asks the operating system and git, and returns plain values and dictionaries. It imports only `reproduce`.
"""
