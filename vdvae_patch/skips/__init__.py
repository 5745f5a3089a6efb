"""Skipped updates: what a run of this package and a guard of somebody else's loop have in common.

| module | holds |
|---|---|
| `rule` | when an update is skipped, and what the cause is called |
| `telling` | what is said of one, in words |
| `gradient_norm` | the norm of a gradient, finite where the gradient is; clipping at a norm |
| `usual_norm` | a limit for the gradient norm that follows the norms of the updates that were applied |
| `records` | log files, one JSON object a line, each with a checksum |
| `counted` | how many lines the logs of a folder have had, in a file beside them |
| `whole` | small files that are replaced in one move, and their checksums |
| `generators` | the states of every random generator |
| `sealed` | folders that are whole or not there, and never trusted without their checksum |
"""
