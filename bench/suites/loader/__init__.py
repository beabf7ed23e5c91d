"""`deeper bench loader`: this project's loader beside FFCV's own, torchvision's and others.

Images come in; images per second and per CPU-second go out.
"""
