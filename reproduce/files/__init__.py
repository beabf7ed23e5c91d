"""Writes files whole or not at all, locks them, makes folders that are private, and names disks that are full.

A path comes in; an open file or a folder goes out, or an error that names the path and the disk. It may import
`reproduce.errors`.
"""
