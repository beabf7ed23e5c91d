"""What every command shares: exit codes, common options, and how durations and numbers are printed.

It takes and gives plain values, and imports nothing of this project but its errors, so that every other room may use
it.
"""
