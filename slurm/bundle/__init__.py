"""Packs the suite for machines without a network and without root; `make bundle` runs it.

The lock and the working tree come in; a folder of numbered parts with a script that installs them goes out.
"""
