"""Everything of the agent that reads what others wrote, each a function of bytes that may raise
nothing: it catches what its reader says that it raises, and whatever else there is, is a bug."""

from tests.fuzz import certificates, kept, servers
from tests.fuzz.readers import Target

TARGETS: dict[str, Target] = {
    reader.__name__: reader
    for reader in (
        certificates.in_nv,
        certificates.in_a_file,
        certificates.revocation_list,
        certificates.tcg_request,
        certificates.ca_challenge,
        certificates.export,
        servers.certificates_of_est,
        servers.pkcs7,
        servers.csr_attributes,
        servers.tpmenroll_reply,
        servers.dps_answer,
        servers.dps_key,
        servers.headers,
        servers.identity_service,
        servers.network_process,
        kept.configuration,
        kept.payload,
        kept.iot_edges_configuration,
        kept.state_files,
        kept.saved_time,
        kept.unsent_line,
        kept.wrapped_key,
        kept.pkcs11_store,
        kept.pkcs11_attributes,
        kept.receipt,
        kept.boot_state,
        kept.policy_key,
    )
}


def each(data: bytes) -> None:
    """Of them all the one that the first byte names: for one process."""
    readers = list(TARGETS.values())
    readers[(data or b"\0")[0] % len(readers)](data[1:])
