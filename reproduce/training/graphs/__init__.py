"""A training step as a CUDA graph: launched as a whole, instead of kernel by kernel.

A function that computes a whole step, and the tensors that it changes, come in; the same step goes out, captured once
for each shape of its images and replayed for each batch. What cannot be captured, or then computes something else, is
left to the function, and the reason goes out.
"""
