"""What people do to a model, and what then becomes of a patch: the table of docs/composability.md, row by row.

A row is a function in one of the files of themes (`copies`, `compilers`, ...), `table` runs it for the three kinds of
patch, and the test compares what it says with the page. `python -m tests.composability --write` writes the page.
"""
