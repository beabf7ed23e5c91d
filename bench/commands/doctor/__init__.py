"""`deeper doctor`: what this machine offers the suite, what is missing, and what to do about it.

The folders of records and data come in; `Check`s go out, one a finding. The checks are quick: torch is the only heavy
package that is imported; the others are only asked for their version.
"""
