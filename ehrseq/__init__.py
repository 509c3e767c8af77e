"""ehrseq: any hospital's records to FHIR, timelines, tokens and JAX models.

The five nouns flow one way: source -> FHIR store -> timeline -> token store -> model -> predictions.
Every arrow is one verb of the command line and one function here with the same name.

Functions are imported on first use, so `import ehrseq` costs nothing and the accelerator side
(`ehrseq.tokens.store`, `ehrseq.models`, `ehrseq.training`) never pulls in polars or DuckDB.

>>> import ehrseq
>>> "map" in dir(ehrseq)
True
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# verb -> module that defines the function of the same name
_VERBS: dict[str, str] = {
    "demo": "ehrseq.deploy.pipeline",
    "run": "ehrseq.deploy.pipeline",
    "train": "ehrseq.deploy.pipeline",
    "map": "ehrseq.mapping.stage",
    "import_fhir": "ehrseq.sources.fhir.stage",
    "import_bulk": "ehrseq.sources.bulk.stage",
    "import_meds": "ehrseq.timeline.import_meds",
    "export_fhir": "ehrseq.fhir.export",
    "export_view": "ehrseq.timeline.export",
    "timeline": "ehrseq.timeline.serialize",
    "coverage": "ehrseq.timeline.coverage",
    "tokenize": "ehrseq.tokens.tokenize",
    "label": "ehrseq.tasks.extract",
    "features": "ehrseq.tasks.features",
    "predict": "ehrseq.deploy.predict",
    "send": "ehrseq.deploy.send",
    "retrain": "ehrseq.deploy.retrain",
    "monitor": "ehrseq.deploy.monitor",
    "explain": "ehrseq.deploy.explain",
    "serve": "ehrseq.deploy.serve",
    "show": "ehrseq.deploy.show",
    "doctor": "ehrseq.deploy.doctor",
    "generate": "ehrseq.synthetic.generate",
}

__all__ = ["__version__", *_VERBS]


def __getattr__(name: str) -> Any:
    """Import the function of a verb when it is first asked for."""
    if name in _VERBS:
        return getattr(import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'ehrseq' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names shown by completion, verbs included."""
    return sorted(__all__)
