"""The suite packed for machines without a network and without root; see README.md. `make bundle` runs it."""
