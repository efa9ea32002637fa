"""The bench works; what it measures here, beside other tests, says nothing."""

import subprocess

from tests.lab.process import TOP


def test_both_ways_end_with_a_provisioned_device_and_every_target_gets_its_verdict() -> None:
    command = [str(TOP / "tests/bench/run"), "-n", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    by_hand, ecc = (next(line for line in lines if way in line) for way in ("by hand", "ECC, B"))
    assert int(ecc.split()[-1]) == 1 < int(by_hand.split()[-1])
    assert len([line for line in lines if line.startswith(("met ", "MISSED "))]) == 9
