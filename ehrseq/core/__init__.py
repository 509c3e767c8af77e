"""What every stage stands on: errors, schemas, hashes, datasets with manifests, the shuffle, the executor.

Import the module you need (`from ehrseq.core import dataset`). `errors`, `progress`, `files`, `manifest` and
`measure` need the standard library alone; `hashing` needs numpy; `schema`, `dataset` and `shuffle` need polars.
"""
