"""The way to Azure: who we are there, over which TLS, and what its refusals mean.

Each translates the errors of Azure's SDKs once: `with speaking("make the IoT hub"):`.
"""

import contextlib
import logging
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import AzureAuthorityHosts, DefaultAzureCredential

from agent.errors import (
    AgentError,
    AzureBusy,
    AzureChanged,
    AzureForbidden,
    AzureGarbled,
    AzureLogin,
    AzureNameTaken,
    AzureRefused,
    AzureUnreachable,
    AzureUnregistered,
)
from agent.http import host_of, printable

if TYPE_CHECKING:
    from agent.operator.settings import Cloud

TRIES = 12  # of one request, where the server is busy or not there, each later than the last
PATIENCE = 60  # seconds, between the last of them
KNOWN = {
    AzureAuthorityHosts.AZURE_PUBLIC_CLOUD,
    AzureAuthorityHosts.AZURE_GOVERNMENT,
    AzureAuthorityHosts.AZURE_CHINA,
}
UNREGISTERED = "MissingSubscriptionRegistration"
BUSY = {408, 429, 500, 502, 503, 504}
TAKEN = ("NotAvailable", "NameUnavailable", "AlreadyTaken", "NameInUse")
ASKING: dict[str, Any] = {"retry_on_methods": ["POST"]}  # with a POST that changes nothing
# What the SDKs run into when an answer is JSON, but not what was asked for.
NONSENSE = (AttributeError, KeyError, TypeError, ValueError)
WAITING: dict[str, Any] = {"read_timeout": 100}  # seconds, for the next bytes of an answer
RETRIES = {"retry_total": TRIES, "retry_status": TRIES, "retry_backoff_max": PATIENCE}


def quiet() -> None:
    """The SDKs log headers, and at length what failed; what a person must know, we say."""
    for name in ("azure", "msal", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def transport(cloud: "Cloud", **more: Any) -> Any:
    """HTTPS; `cloud.trust` alone vouches for who answers. Without `more`: for `credential`, which
    has its own mind about waiting."""
    return RequestsTransport(connection_verify=str(cloud.trust), connection_timeout=30, **more)


def credential(cloud: "Cloud") -> Any:
    """Who is logged in, in the order of azure-identity: its environment variables first, the Azure
    CLI among others. An authority that Microsoft does not know is not asked Microsoft for."""
    host = host_of(cloud.authority)
    return DefaultAzureCredential(
        authority=cloud.authority,
        disable_instance_discovery=host not in KNOWN,
        transport=transport(cloud),
    )


def arm(cloud: "Cloud") -> dict[str, Any]:
    """What each client of Resource Manager is made with, besides the subscription."""
    return {
        "credential": credential(cloud),
        "base_url": cloud.resource_manager,
        "credential_scopes": [cloud.scope],
        "polling_interval": cloud.poll.total_seconds(),
        "transport": transport(cloud, **WAITING),
        **RETRIES,
    }


@contextlib.contextmanager
def speaking(doing: str) -> Iterator[None]:
    """Raises AzureLogin, AzureForbidden, AzureNameTaken, AzureUnregistered, AzureRefused,
    AzureGarbled (76), AzureBusy, AzureChanged, AzureUnreachable (75) for what the SDKs raise."""
    try:
        yield
    except ClientAuthenticationError as e:
        raise AzureLogin(f"cannot {doing}: not logged in: {printable(str(e), 400)}") from e
    except HttpResponseError as e:
        raise refusal(doing, e.status_code or 0, *_said(e)) from e
    except (ServiceRequestError, ServiceResponseError, ssl.SSLError) as e:
        why = printable(str(e.__cause__ or e), 300)
        raise AzureUnreachable(f"cannot {doing}: {why}") from e
    except AzureError as e:
        raise AzureRefused(f"cannot {doing}: {printable(str(e), 300)}") from e
    except NONSENSE as e:
        why = f"the answer makes no sense: {type(e).__name__}: {printable(str(e), 100)}"
        raise AzureGarbled(f"cannot {doing}: {why}") from e


def has_list(response: Any) -> None:
    """The SDK takes an answer without one for one that is empty."""
    answer = response.http_response
    if answer.status_code == 200 and "value" not in answer.json():
        raise KeyError("value")


def _said(e: HttpResponseError) -> tuple[str, str]:
    """The code and the words of a refusal, as Resource Manager puts them."""
    code, message = getattr(e.error, "code", None), getattr(e.error, "message", None)
    return str(code or ""), str(message or e.reason or e.message)


def refusal(doing: str, status: int, code: str, message: str) -> AgentError:
    """The error for a status, with the server's own code and words."""
    words = ": ".join(filter(None, (code, printable(message, 300))))
    why = f"cannot {doing}: {words} ({status})"
    if status == 401:
        return AzureLogin(why)
    if status == 403:
        return AzureForbidden(why)
    if status == 409 and any(part in code for part in TAKEN):
        return AzureNameTaken(why)
    if status // 100 == 2:  # it said yes, in words that make no sense
        return AzureGarbled(why)
    if status == 412:
        return AzureChanged(why)
    if code == UNREGISTERED:
        return AzureUnregistered(why)
    return AzureBusy(why) if status in BUSY else AzureRefused(why)
