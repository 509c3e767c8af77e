"""How good the predictions are, how sure we are of it, and a page that says both in plain words.

- `metrics`: one number from labels and scores; `ranking`, `calibration`, `panel`: the weighted forms below
- `bootstrap`: intervals and paired differences, resampling patients
- `results`: predictions in, results, differences and verdicts out
- `verdict`, `sentences`, `wording`: what may be concluded, in plain words
- `figures`, `report`, `console`: the same for the eye

Import the module you need: matplotlib, jinja2 and rich come only with the last three.
"""
