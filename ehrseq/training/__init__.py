"""Training: state, step, loop, checkpoints, predictions. Labels arrive as arrays; nothing of polars or DuckDB.

`loop.train(config, store, examples, out)` leaves a folder with `model/` (all that `predict.predict` needs),
`checkpoints/` (all that going on needs) and `history.json`.
"""
