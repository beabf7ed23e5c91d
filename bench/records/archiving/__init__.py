"""Packs the records of an experiment into one file that an archive of research data takes: an RO-Crate.

Records come in and stay as they are; a zip file goes out whose metadata name each run, what it was made of and with,
and what came of it. `contents` chooses the files, and `crate` describes them and writes the file.
"""
