"""What all commands share: the parser, common options, exit codes, tables, and what an extension may add.

Plain values come in; text for a terminal or a pipe goes out. It imports nothing of this project but its errors, so that
every other room may use it.
"""
