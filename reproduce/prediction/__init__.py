"""Shows what a trained network makes of single pictures: the likeliest classes, and the maps of one of its modules.

A network and image files come in. They are stored and cropped as for validation. Probabilities of every classifier,
maps of the branches of an Inception module, and a self-contained page in HTML go out.
"""
