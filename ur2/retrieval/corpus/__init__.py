"""Published passages to one memory-mapped file.

Enters: files, folders and archives of passages or pages, in any of the known formats. Leaves: an
Arrow stream of passages with its checksum. Invariant: every row is checked, ids are unique, and a
conversion that was killed goes on where it stood.
"""
