"""The probes of `deeper bench gpu`. Each is a function that measures or checks one thing in a process of its own."""
