"""Holds what all commands share: the parser, common options, exit codes, tables, and the interface for extensions.

Plain values come in; text for a terminal or a pipe goes out. Of this project, the package imports only
`reproduce.errors`, so that every other package may use it.
"""
