"""main.bicep, for those who prefer it, comes to the same as `tpm2cloud-operator deploy`."""

import re
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from typing import Any

import pycep
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.operator import cas, settings
from agent.operator.link import LINK, OWNER
from agent.operator.resources import Arm
from tests.lab.azure import Azure
from tests.lab.desk import DPS, GROUP, HUB, Desk, Tool
from tests.lab.process import TOP

BICEP = TOP / "docs/examples/azure/main.bicep"
OF_A_TIME = {"etag", "created", "updated", "systemData", "createdAt", "lastModifiedAt", "idScope"}
Values = dict[str, Any]


@pytest.mark.parametrize("sku", ["S1", "F1"])
def test_what_bicep_makes_is_what_deploy_makes(
    sku: str, desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a parser of Bicep and a reader of what main.bicep uses of it, for the compiler is not
    here: each resource is put into the lab's Azure, as Resource Manager would."""
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    desk.write(hub=f"sku = '{sku}'")
    tool = Tool(desk, capsys)
    assert tool("deploy").status == 0
    made = seen(desk.azure)
    versions = {kind(x["path"]): x["version"] for x in desk.azure.requests() if "change" in x}
    assert tool("destroy", "-y").status == 0

    arm = Arm(settings.load(desk.file))
    arm.make_group()
    assert arm.config.est is not None
    found = cas.fetched(arm.config.est).trusted
    listed = [{"name": cas.name(c), "certificate": encoded(c)} for c in found]
    given = {"hubName": HUB, "dpsName": DPS, "operationalCas": listed, "location": "westeurope"}
    given["hubSku"] = sku
    for each in resources(arm, given):
        assert each["api_version"] == versions[each["type"]]
        put(arm, each)
    assert without_group(seen(desk.azure)) == without_group(made)
    desk.azure.forget()
    assert tool("deploy").status == 0
    ends = [x.rpartition("/")[2] for x in desk.azure.wishes()]
    assert ends == [DPS, "tpm2cloud"]  # to mark the link, and the group


def encoded(certificate: Any) -> str:
    return b64encode(certificate.public_bytes(Encoding.DER)).decode()


def kind(path: str) -> str:
    """The type in a resource's path."""
    _, _, rest = path.partition("/providers/")
    provider, *parts = rest.split("/")
    return "/".join([provider, *parts[::2]])


def seen(azure: Azure) -> Values:
    """All there is, but for what every making makes anew."""
    return {at: timeless(body) for at, body in azure.resources().items()}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in {*OF_A_TIME, LINK}}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def without_group(found: Values) -> Values:
    return {at: body for at, body in found.items() if at != GROUP}


# --- a reader of main.bicep ---


def resources(arm: Arm, given: Values) -> Iterator[Values]:
    """Each resource with its type, version, name and body, in the order of the file."""
    parsed: Any = pycep.BicepParser().parse(file_path=BICEP)
    values: Values = {name: each["default"] for name, each in parsed["parameters"].items()} | given
    for name, each in parsed["variables"].items():
        values[name] = resolved(each["value"], values)
    missing = [name for name, value in values.items() if value is None]
    assert not missing
    for each in parsed["resources"].values():
        config: Values = each["config"]
        loops: list[Values] = [{}]
        if "loop_type" in config:
            detail = config["loop_type"]["detail"]
            loops = [{detail["item_name"]: item} for item in values[detail["array_name"]]]
            config = config["config"]
        for loop in loops:
            body = resolved(config, {**values, **loop}, partial(of_hub, arm))
            yield {"type": each["type"], "api_version": each["api_version"], "body": body}


def resolved(value: Any, values: Values, hub: Any = None) -> Any:
    """Names of parameters and variables stand for what they are; NAME.PART for a part of it."""
    if isinstance(value, dict) and "operator" in value:
        operands = value["operator"]["operands"]
        if value["operator"]["type"] == "conditional":
            return chosen(operands, values)
        return values[operands["operand_1"]][operands["operand_2"]]
    if isinstance(value, dict):
        return {name: resolved(each, values, hub) for name, each in value.items()}
    if isinstance(value, list):
        return [resolved(each, values, hub) for each in value]
    if isinstance(value, str) and "${" in value:
        return re.sub(r"\$\{(.*?)\}", lambda found: str(hub(found[1])), value)
    return values.get(value, value) if isinstance(value, str) else value


def chosen(operands: Values, values: Values) -> Any:
    """(A == B) ? C : D"""
    asked = operands["condition"]["operator"]
    assert asked["type"] == "equals"
    one, other = (resolved(each, values) for each in asked["operands"].values())
    return operands["true_value" if one == other else "false_value"]


def of_hub(arm: Arm, expression: str) -> str:
    """What the two expressions about the hub stand for."""
    if expression == "hub.properties.hostName":
        return arm.hub_host()
    assert expression == "hub.listkeys().value[0].primaryKey"
    first = next(iter(arm.hubs.iot_hub_resource.list_keys(arm.group, HUB)))
    assert first.key_name == OWNER
    return str(first.primary_key)


def put(arm: Arm, resource: Values) -> None:
    body = dict(resource["body"])
    name, _ = body.pop("name"), body.pop("parent", None)
    parts = resource["type"].split("/")[1:]
    path = f"{parts[0]}/{name}" if len(parts) == 1 else f"{parts[0]}/{DPS}/{parts[1]}/{name}"
    group = f"/subscriptions/{arm.config.azure.subscription}/resourceGroups/{GROUP}"
    arm.groups.resources.begin_create_or_update_by_id(
        f"{group}/providers/Microsoft.Devices/{path}",
        api_version=resource["api_version"],
        parameters=body,
    ).result()
