"""Registers of the TPM (PCRs): read, and asked for by a policy, as tpm2-tools do both."""

from typing import Any

import pytest
from tpm2_pytss import ESAPI

from agent.errors import PcrBankAbsent, PcrMoved
from agent.tpm import Tpm, pcr
from agent.tpm.pcr import Selection
from tests.lab.tools import Tools

EVENT = "sha256=" + "ab" * 32


def test_registers_are_read_as_tpm2_tools_read_them(tpm: Tpm, tools: Tools) -> None:
    tools("pcrextend", f"7:{EVENT}")
    every = Selection("sha256", tuple(range(24)))  # more than a TPM answers at once
    values = pcr.read(tpm, every)
    tools("pcrread", "sha256:all", "-o", "values")
    assert b"".join(values.values()) == (tools.directory / "values").read_bytes()
    assert list(values) == list(every.registers)
    assert values[7] not in (bytes(32), values[2])


@pytest.mark.parametrize("register", [10, 0])
def test_registers_are_read_though_another_one_changes_all_the_time(
    tpm: Tpm, tools: Tools, monkeypatch: pytest.MonkeyPatch, register: int
) -> None:
    """More than a TPM answers at once. Where it is one of them, that has an end, too."""
    wanted, read = Selection("sha256", tuple(range(9))), ESAPI.pcr_read

    def busy(*args: Any) -> Any:
        tools("pcrextend", f"{register}:{EVENT}")
        return read(*args)

    monkeypatch.setattr(ESAPI, "pcr_read", busy)
    if register in wanted.registers:
        with pytest.raises(PcrMoved, match="change all the time"):
            pcr.read(tpm, wanted)
    else:
        assert [*pcr.read(tpm, wanted)] == [*wanted.registers]


def test_a_policy_of_registers_is_what_tpm2_tools_come_to(tpm: Tpm, tools: Tools) -> None:
    tools("pcrextend", f"2:{EVENT}")
    wanted = Selection.parse("sha256:7,0,2")
    tools("startauthsession", "-S", "s", "-g", "sha256")
    tools("policypcr", "-S", "s", "-l", str(wanted), "-L", "policy")
    assert str(wanted) == "sha256:0,2,7"
    expected = (tools.directory / "policy").read_bytes()
    assert pcr.policy_digest(wanted, pcr.read(tpm, wanted)) == expected


def test_a_bank_that_the_tpm_does_not_have_is_named(tpm: Tpm) -> None:
    with pytest.raises(PcrBankAbsent, match="sha384:0,7") as e:
        pcr.read(tpm, Selection.parse("sha384:0,7"))
    assert "sha384" in e.value.remedy


@pytest.mark.parametrize("text", ["", "0,2,7", "sha256:", "sha256:24", "md5:0", "sha256:7,7"])
def test_what_is_no_selection_of_registers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="sha256:0,2,7"):
        Selection.parse(text)
