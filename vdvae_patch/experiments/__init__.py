"""The paper's tables and figures as commands, from this package's own scales and heads.

`ensemble` trains many runs of one model as one batched computation; `report` writes what they found.
"""
