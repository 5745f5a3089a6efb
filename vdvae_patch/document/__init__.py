"""A patch as data: heads, conventions, scales and places in a host's source, to JSON and back.

Reading builds nothing but the objects named here, imports nothing that a file names, and checks every value; what is
wrong is a `PatchError` that says where in the file.
"""
