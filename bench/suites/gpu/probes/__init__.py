"""The probes of `deeper bench gpu`: each is one function that measures or checks one thing in a process of its own."""
