"""tpm2cloud: from "there is a TPM 2.0" to "provisioned in Azure", nobody touching the device."""

from datetime import UTC, datetime

__version__ = "0.1.0"
# No clock that is right shows an earlier time than this; the newest entry of debian/changelog.
RELEASED = datetime(2026, 11, 22, tzinfo=UTC)
