"""Whose a resource is: the patient that its `subject`, `patient`, `beneficiary`, `individual` or `for` names.

Source: FHIR R4B, CompartmentDefinition/patient; of its parameters those that are one reference of the resource itself.
"""

import polars as pl

OWNERS = ("subject", "patient", "beneficiary", "individual", "for")
"""Elements that say whose a resource is, the first that is there counts."""

_PATIENT = r"(?:^|/)Patient/([A-Za-z0-9\-.]{1,64})(?:/_history/.*)?$"
_URN = r"^urn:(?:uuid|oid):([A-Za-z0-9\-.]{1,64})$"


def patient_of(resource_type: pl.Expr, resource_id: pl.Expr, owner: pl.Expr) -> pl.Expr:
    """Logical id of the patient, of a Patient its own; null for what belongs to nobody. `owner` is a reference's text.

    >>> frame = pl.DataFrame({"t": ["Patient", "Claim", "Group"], "i": ["a", "b", "c"], "o": [None, "Patient/a", None]})
    >>> frame.select(p=patient_of(pl.col("t"), pl.col("i"), pl.col("o")))["p"].to_list()
    ['a', 'a', None]
    """
    itself = pl.when(resource_type == "Patient").then(resource_id)
    return pl.coalesce(itself, owner.str.extract(_PATIENT, 1), owner.str.extract(_URN, 1))
