"""Models: one idea a file. JAX starts here; nothing of polars, DuckDB or pydantic is imported.

One protocol for every family: `model.represent(batch)` gives one vector per position, `model(batch)` gives one
logit per label. `registry.build(config, inputs)` makes a model from plain values; `baselines` holds the honest
competitors that see the same windows' subjects without a network.
"""
