"""Writes a trained network as a file that other programs load: torchvision's layout, ONNX, or safetensors.

A network with its trained weights and a description of the run come in. The bytes of one file go out, and for
torchvision's layout those of a description in JSON beside it. Each file says what it needs to be used: classes,
normalisation, resolution, crop, the run's key, its accuracy and the commit. `loading` reads files back as networks.
"""
