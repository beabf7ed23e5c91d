"""From FFCV files to batches: decoding, cropping and augmentation, whose random numbers a seed determines.

A prepared data set comes in; batches of images and labels go out.
"""
