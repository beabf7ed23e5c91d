"""Loaders: decoding, cropping and augmentation, whose random numbers are determined by a seed.

A folder of FFCV files with a manifest comes in; batches of images, labels and image numbers go out.
"""
