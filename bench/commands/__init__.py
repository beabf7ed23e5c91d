"""The verbs of `deeper`, a module a theme. Each imports what it needs when it is called, so `--help` is instant."""
