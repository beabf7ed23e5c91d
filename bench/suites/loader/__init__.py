"""`deeper bench loader`: compares this project's loader with FFCV's own decoders, DALI and torchvision.

Photographs come in; images per second and per CPU-second go out.
"""
