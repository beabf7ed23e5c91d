"""What machine this is: CPU, GPUs by NVML, file systems, and the environment that is recorded with each result.

The operating system comes in; plain dictionaries and values go out. It imports `reproduce` alone.
"""
