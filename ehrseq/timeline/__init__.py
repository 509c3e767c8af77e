"""FHIR store → timeline: events in the order in which they became known, as a MEDS 0.4 dataset.

    timeline(FHIR, TIMELINE)            make it                         serialize.py
    scan_events, read_timeline, splits  read it                         meds.py
    load_view, run_view                 any SQL-on-FHIR view, by itself definition.py, views.py

Which facts become events, and when they count as known, stands in knowable.yaml.
"""

import sys
from types import ModuleType
from typing import Any

from ehrseq.core.dataset import Result
from ehrseq.timeline.definition import View, load_view, view_of
from ehrseq.timeline.meds import codes, read_timeline, scan_events, shards, splits
from ehrseq.timeline.schema import Code, Event, Unused
from ehrseq.timeline.serialize import timeline
from ehrseq.timeline.views import plan_view, run_view

__all__ = [
    "Code",
    "Event",
    "Unused",
    "View",
    "codes",
    "load_view",
    "plan_view",
    "read_timeline",
    "run_view",
    "scan_events",
    "shards",
    "splits",
    "timeline",
    "view_of",
]


class _Verb(ModuleType):
    """`ehrseq.timeline` is this package and also the verb, whichever was imported first: calling it is `timeline`."""

    def __call__(self, *arguments: Any, **options: Any) -> Result:
        return timeline(*arguments, **options)


sys.modules[__name__].__class__ = _Verb
