"""`deeper bench step`: compares a training step of this project with torchvision's in several forms.

Random images come in; images per second and shares of the roofline of the machine go out.
"""
