"""What a power cut tore of IoT Edge's certificates.

Its certificate service writes them without fsync: a power cut soon after leaves a file that is
empty. Neither it nor the identity service gets over that: both start, fail, and start again, for
ever. Without the file, a certificate is got anew.
"""

import logging
import time
from pathlib import Path

from agent import journal, store, x509
from agent.events import TORN_CERTIFICATE

log = logging.getLogger(__name__)
MOMENT = 1.0  # seconds: nobody takes longer to write a certificate


def remove(certificates: Path) -> None:
    """The files in that directory (of aziot-certd) that hold no certificate, and do not get one."""
    found = _torn(certificates)
    if not found:
        return
    time.sleep(MOMENT)  # one may be just being written
    for path in found & _torn(certificates):
        about = journal.about(TORN_CERTIFICATE, path=str(path))
        log.warning("'%s' holds no certificate: removed, IoT Edge gets another", path, extra=about)
        store.remove(path)


def _torn(directory: Path) -> set[Path]:
    with store.permitted(directory):
        files = list(directory.iterdir()) if directory.exists() else []
    return {path for path in files if path.suffix == ".cer" and not x509.kept(store.read(path))}
