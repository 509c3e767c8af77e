"""Tokens: timelines as flat arrays that a model reads, with the vocabulary they are bound to.

`vocabulary` and `tokenize` make the store, `examples` the labels as arrays (all three need polars). `store`,
`packing` and `loader` are what training reads: numpy alone.
"""
