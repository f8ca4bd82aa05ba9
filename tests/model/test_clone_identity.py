"""What a clone renews, and a restore keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.situation import CLONE
from tests.model.moves_of_tests import DELL, HPE, adapted, items_of, moved

# --- identity -------------------------------------------------------------------------------------------------------

IDENTITY = {
    "/etc/machine-id": "1\n",
    "/etc/ssh/ssh_host_ed25519_key": "secret",
    "/etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.1\n",
    "/etc/nvme/hostnqn": "nqn.1\n",
    "/etc/pki/consumer/cert.pem": "certificate",
    "/etc/krb5.keytab": "secret",
    "/etc/wireguard/wg0.conf": "secret",
}


@pytest.mark.adapts("I1", "T1")
@pytest.mark.adapts("I2", "T1")
def test_a_clone_renews_what_a_restore_keeps() -> None:
    kinds = ("machine-id", "ssh-host-key", "iscsi-name", "nvme-name", "registration", "hostname")
    clone = moved(DELL, HPE, files=IDENTITY, mode=CLONE)
    found = [item for item in adapted(clone)[0].items if item.kind in kinds]
    assert {item.kind for item in found} == set(kinds) and all(item.handled_by for item in found)
    said = {item.key for item in items_of(clone, "identity")}
    assert {"/etc/krb5.keytab", "/etc/wireguard"} <= said, "what only its owner can renew is said"
    restore = adapted(moved(DELL, HPE, files=IDENTITY))
    assert not [item for item in restore[0].items if item.kind in (*kinds, "identity")]
    assert not [recipe.id for recipe in restore[1] if recipe.phase == "identity"]


HOSTS = "127.0.0.1 localhost localhost.localdomain\n10.0.0.5 {full} {short} # {short}\n10.0.0.6 {short}.elsewhere.net\n"


@pytest.mark.adapts("I2", "T1")
@pytest.mark.parametrize(
    ("old", "given", "new", "names"),
    [
        ("db1.example.com", "", "db1-bb0001.example.com",
         {"db1.example.com": "db1-bb0001.example.com", "db1": "db1-bb0001"}),
        ("db1.example.com", "db2.example.com", "db2.example.com", {"db1.example.com": "db2.example.com", "db1": "db2"}),
        ("db1.example.com", "db1.example.org", "db1.example.org", {"db1.example.com": "db1.example.org"}),
        ("db1.example.com", "db2", "db2", {"db1.example.com": "db2.example.com", "db1": "db2"}),
        ("db1", "", "db1-bb0001", {"db1.example.com": "db1-bb0001.example.com", "db1": "db1-bb0001",
                                   "db1.elsewhere.net": "db1-bb0001.elsewhere.net"}),
        ("localhost.localdomain", "", "localhost-bb0001.localdomain", {}),
    ],
)  # fmt: skip
def test_a_clone_is_called_by_its_own_names(old: str, given: str, new: str, names: dict[str, str]) -> None:
    hosts = HOSTS.format(full="db1.example.com", short="db1")
    one = moved(DELL, HPE, files={"/etc/hosts": hosts}, mode=CLONE, name=given)
    one = replace(one, source=replace(one.source, hostname=old))
    assert [item.target for item in items_of(one, "hostname")] == [new]
    found = items_of(one, "hosts-name")
    assert {item.source: item.target for item in found} == names
    assert all(item.handled_by == ("identity.clone-hostname",) for item in found)
