"""FHIR as it comes: Bundles, NDJSON and Bulk Data exports, into a FHIR store that keeps every resource as it was."""
