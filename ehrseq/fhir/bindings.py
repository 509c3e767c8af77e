"""Codes of required bindings that `fhir.resources.R4B` leaves out, cuts short or gets wrong.

That package takes its codes from the short descriptions of the standard, which cut long lists ("a | b | +").
Source: HL7 FHIR R4B (4.3.0), the value set named above each list.
"""

_OBSERVATION_STATUS = (  # http://hl7.org/fhir/ValueSet/observation-status
    "registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown",
)  # fmt: skip
_ENCOUNTER_STATUS = (  # http://hl7.org/fhir/ValueSet/encounter-status
    "planned", "arrived", "triaged", "in-progress", "onleave", "finished", "cancelled", "entered-in-error",
    "unknown",
)  # fmt: skip
_COMPARATOR = ("<", "<=", ">=", ">")  # http://hl7.org/fhir/ValueSet/quantity-comparator

CORRECTED: dict[tuple[str, str], tuple[str, ...] | None] = {
    ("Observation", "status"): _OBSERVATION_STATUS,
    ("DetectedIssue", "status"): _OBSERVATION_STATUS,
    ("RiskAssessment", "status"): _OBSERVATION_STATUS,
    ("Encounter", "status"): _ENCOUNTER_STATUS,
    ("EncounterStatusHistory", "status"): _ENCOUNTER_STATUS,
    ("DiagnosticReport", "status"): (  # http://hl7.org/fhir/ValueSet/diagnostic-report-status
        "registered", "partial", "preliminary", "final", "amended", "corrected", "appended", "cancelled",
        "entered-in-error", "unknown",
    ),
    ("DeviceUseStatement", "status"): (  # http://hl7.org/fhir/ValueSet/device-statement-status
        "active", "completed", "entered-in-error", "intended", "stopped", "on-hold",
    ),
    ("DeviceUdiCarrier", "entryType"): (  # http://hl7.org/fhir/ValueSet/udi-entry-type
        "barcode", "rfid", "manual", "card", "self-reported", "unknown",
    ),
    ("SupplyRequest", "status"): (  # http://hl7.org/fhir/ValueSet/supplyrequest-status
        "draft", "active", "suspended", "cancelled", "completed", "entered-in-error", "unknown",
    ),
    ("Task", "status"): (  # http://hl7.org/fhir/ValueSet/task-status
        "draft", "requested", "received", "accepted", "rejected", "ready", "cancelled", "in-progress", "on-hold",
        "failed", "completed", "entered-in-error",
    ),
    ("QuestionnaireItem", "type"): (  # http://hl7.org/fhir/ValueSet/item-type
        "group", "display", "question", "boolean", "decimal", "integer", "date", "dateTime", "time", "string",
        "text", "url", "choice", "open-choice", "attachment", "reference", "quantity",
    ),
    ("StructureMapGroupRuleTarget", "transform"): (  # http://hl7.org/fhir/ValueSet/map-transform
        "create", "copy", "truncate", "escape", "cast", "append", "translate", "reference", "dateOp", "uuid",
        "pointer", "evaluate", "cc", "c", "qty", "id", "cp",
    ),
    **{(name, "comparator"): _COMPARATOR for name in ("Quantity", "Age", "Count", "Distance", "Duration")},
    ("CapabilityStatement", "format"): None,  # MIME types, not the words of the description
    ("Expression", "language"): None,  # an extensible binding
}  # fmt: skip
"""Codes by (type, element); None: the element has no closed list of codes."""
