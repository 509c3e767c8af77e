"""How good the predictions are, how sure we are of it, and a page that says both in plain words.

- `metrics`: one number from labels and scores; `ranking`, `calibration` and `panel` are the weighted forms below it
- `bootstrap`: intervals and paired differences, resampling patients
- `results`: predictions in, results, differences and verdicts out
- `verdict`, `wording`: what may be concluded, as a sentence
- `figures`, `report`, `console`: the same for the eye

Import the module you need. Only `figures` imports matplotlib, only `report` jinja2, only `console` rich.
"""
