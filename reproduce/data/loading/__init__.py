"""Loaders of prepared data sets: they decode, crop and augment images, reproducibly from seeds.

A folder of FFCV files with a manifest comes in; batches of images, labels and image numbers go out.
"""
