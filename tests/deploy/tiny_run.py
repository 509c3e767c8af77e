"""What the tests of this folder run: two tasks with labels, one without, a model that trains in seconds."""

from ehrseq.models.families import TransformerConfig
from ehrseq.training.config import TrainConfig

TASKS = ("in_hospital_mortality_24h", "long_stay_7d")
TINY = TrainConfig(
    model=TransformerConfig(dim=8, heads=2, layers=0, pools=1, attention="reference"),
    context=32, row_length=32, batch_rows=16, epochs=2, checkpoint_steps=2,
)  # fmt: skip
NOBODY_DIES_TWICE = """
predicates:
  admission: {code: {regex: '^Encounter\\.start//ActCode//IMP$'}}
  discharge: {code: {regex: '^Encounter\\.end//ActCode//IMP'}}
  second_death: {code: MEDS_DEATH//2}
trigger: admission
windows:
  first_hour: {start: trigger, end: start + 1h, start_inclusive: true, end_inclusive: true, index_timestamp: end}
  target:
    start: first_hour.end
    end: start -> discharge
    start_inclusive: false
    end_inclusive: true
    label: second_death
"""
