"""How a patch reaches a head: one attachment for each method of the host that has to compute something else.

`graft` gives a single module a class of its own, through which its methods are reached; `attachment` has the protocol
and the five kinds (a module's output, an activation, a method, rebound functions, expressions of the host's source);
`sites` are the descriptions of places in that source; `expression`, `rewrite`, `source` and `decorators` compile a
function again with some of its expressions replaced.
"""
