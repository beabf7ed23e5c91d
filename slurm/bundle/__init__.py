"""Packs the project and its requirements for machines without a network and without root; `make bundle` calls it.

The lock files and the working tree come in; a folder of numbered parts with a script that installs them goes out.
"""
