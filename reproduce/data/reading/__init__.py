"""Reads images from where they lie: folders, tars, ImageNet's archives and the files of Fashion-MNIST.

A path comes in; the classes and a reader of every image go out, and what was passed over. It may import
`reproduce.data.manifest` and `reproduce.limits`.
"""
