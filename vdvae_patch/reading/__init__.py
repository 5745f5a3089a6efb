"""Files of others, read with care: nothing in them is run, nothing takes more time or memory than the file has bytes.

kinds.py         what a file is that is not what was asked for
pickles.py       a pickle, by a machine with bounds in which every name is a stand-in
archives.py      a zip archive whose list of members is not too long
tensor_files.py  a file of `torch.save`, told before torch reads it
fields.py        what a document says, checked field by field against the types that it must have
"""
