"""The operator's side: tpm2cloud-operator, on a workstation."""

from agent.errors.base import ConfigError, Later, Refused


class OperatorConfigError(ConfigError):
    """The operator's configuration cannot be used; the message lists every problem found in it."""

    code = "operator-config-invalid"
    remedy = "Edit the file that --config names (operator.toml); docs/operator.md says how"


class OperatorSoftware(ConfigError):
    """Azure's packages for Python, which the operator's tool works with, are not installed."""

    code = "operator-software"
    remedy = "Install them, in a checkout of tpm2cloud: pip install '.[operator]'"


class DeviceSoftware(ConfigError):
    """A package for Python that this needs is not installed: tpm2-pytss is on devices only."""

    code = "device-software"
    remedy = "Install the Debian package; or, in a checkout of tpm2cloud: pip install '.[device]'"


class DestroyUnconfirmed(ConfigError):
    """Nobody has confirmed that what was deployed in Azure is to be removed."""

    code = "destroy-unconfirmed"
    remedy = "Answer yes on a terminal; or, without being asked: tpm2cloud-operator destroy -y"


class AzureDiffers(ConfigError):
    """What is in Azure under a configured name is not ours, or cannot be made what it should be."""

    code = "azure-differs"
    remedy = (
        "Choose another name or place in operator.toml; or, if it is to be ours, which means that "
        "destroy removes it, give it the tag: "
        "az tag update --operation merge --tags tpm2cloud=GROUP --resource-id ID"
    )


class AzureAbsent(ConfigError):
    """What is to be written into is not in Azure, under the configured name."""

    code = "azure-absent"
    remedy = "Make it: tpm2cloud-operator deploy; or name the one that is there in operator.toml"


class AzureLogin(Refused):
    """Azure does not know who we are: nobody is logged in, or the login has run out."""

    code = "azure-login"
    remedy = (
        "Log in: az login; or set AZURE_TENANT_ID, AZURE_CLIENT_ID and a credential. If the words "
        "are of a connection, or this clock is wrong: proxy, cloud.trust, timedatectl"
    )


class AzureForbidden(Refused):
    """Azure knows who we are, and does not permit it."""

    code = "azure-forbidden"
    remedy = (
        "Have the role Contributor given on the resource group; for dps.login = 'entra' also "
        "'Device Provisioning Service Data Contributor' on the provisioning service"
    )


class AzureNameTaken(Refused):
    """Somebody else in the world has a hub or a provisioning service of this name."""

    code = "azure-name-taken"
    remedy = "Choose another name in operator.toml"


class AzureUnregistered(Refused):
    """The subscription was never used for IoT hubs: Azure wants to be told that it is to be."""

    code = "azure-unregistered"
    remedy = (
        "Once for a subscription, then wait some minutes: "
        "az provider register --namespace Microsoft.Devices --wait"
    )


class AzureRefused(Refused):
    """Azure refuses, for a reason that its own words say."""

    code = "azure-refused"
    remedy = "See the activity log of the resource group in the Azure portal"


class AzureFailed(Refused):
    """Azure began the work, and says that it failed."""

    code = "azure-failed"
    remedy = "See the activity log of the resource group, then once more: tpm2cloud-operator deploy"


class AzureGarbled(Refused):
    """An answer of Azure's makes no sense."""

    code = "azure-garbled"
    remedy = "Try again; if it stays, see whether something in between answers in Azure's place"


class AzureCaUnverified(Refused):
    """DPS has a certificate of the operational CA, but does not count it as verified."""

    code = "azure-ca-unverified"
    remedy = (
        "Prove that the CA's key is yours: az iot dps certificate generate-verification-code, have "
        "the CA sign it, and az iot dps certificate verify"
    )


class OperationalCaUnusable(Refused):
    """What EST gives as the operational CA cannot be enrolled in DPS."""

    code = "operational-ca-unusable"
    remedy = "See what the server gives as /cacerts, and whether est.url is that of the right CA"


class AzureBusy(Later):
    """Azure is busy or has trouble, and stays so, though it was tried again."""

    code = "azure-busy"
    remedy = "Run it again later: it goes on where it was"


class AzureChanged(Later):
    """Somebody else made or changed the same in Azure, just now: theirs was not overwritten."""

    code = "azure-changed"
    remedy = "See what was changed (tpm2cloud-operator plan), then run it again"


class AzureUnreachable(Later):
    """Azure cannot be reached, or the connection was lost."""

    code = "azure-unreachable"
    remedy = "See that the way is free (proxy, DNS, cloud.trust), then run it again: it goes on"
