"""`deeper bench loader`: this project's loader beside FFCV's own, DALI and torchvision.

Photographs come in; images per second and per CPU-second go out.
"""
