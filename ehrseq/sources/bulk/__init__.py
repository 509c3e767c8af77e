"""A FHIR server's Bulk Data export, asked for, waited for, fetched and made a FHIR store.

Source: FHIR Bulk Data Access 2.0 (hl7.org/fhir/uv/bulkdata); SMART Backend Services (hl7.org/fhir/smart-app-launch).
"""

from ehrseq.core.errors import ConfigError

try:
    import cryptography
    import httpx
    import jwt
except ImportError as error:
    raise ConfigError(
        f"`ehrseq import bulk` needs {error.name}, which is not installed. `pip install ehrseq[bulk]`."
    ) from error

__all__ = ["cryptography", "httpx", "jwt"]
