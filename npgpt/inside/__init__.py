"""Looking inside a model: every number has an address, a formula and a line.

`GPT2.trace` and `GPT2.why` are the doors. recipes and derivatives are the table that
all of it reads, formula and notation its language; trace, reading and numbers hold what
a model computed; why explains it.
"""
