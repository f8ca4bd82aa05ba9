"""What else tells a clone from the machine it was made of: renewed by recipes, or said where only its owner can."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.difference import Item, Op, Tier
from agent.model.situation import CLONE, Situation

# Made anew at the first boot.
RENEWED = {
    "/etc/iscsi/initiatorname.iscsi": "iscsi-name",
    "/etc/nvme/hostnqn": "nvme-name",
}
# Taken away: registrations that count machines. The files are secrets, and the source goes on using them.
REGISTRATIONS = (
    "/etc/pki/consumer/cert.pem",
    "/etc/pki/consumer/key.pem",
    "/etc/sysconfig/rhn/systemid",
    "/etc/zypp/credentials.d/SCCcredentials",
    "/var/lib/ubuntu-advantage/private/machine-token.json",
)
# Said: joining again takes somebody who may.
SAID = {
    "/etc/krb5.keytab": "the Kerberos keys are the source's: join the clone to its domain anew",
    "/var/lib/samba/private/secrets.tdb": "the domain membership is the source's: join the clone anew",
    "/var/lib/sss/secrets/secrets.ldb": "secrets of sssd are the source's",
    "/etc/salt/pki/minion/minion.pem": "the Salt minion's key is the source's: remove it and accept the new one",
    "/etc/puppetlabs/puppet/ssl/private_keys": "the Puppet agent's key is the source's: sign a new one",
    "/var/lib/tailscale/tailscaled.state": "Tailscale takes the clone for the source: log it in anew",
    "/etc/wireguard": "WireGuard's private keys are the source's: two peers of one key cut each other off",
}


def clone_items(situation: Situation) -> Iterator[Item]:
    if situation.mode != CLONE:
        return
    tree = situation.tree
    for path, kind in RENEWED.items():
        if tree.is_file(path):
            reason = f"{path} names the source to its storage, which lets a clone of that name in to its disks"
            yield Item(id="", op=Op.CHANGE, kind=kind, key=path, tier=Tier.MUST, reason=reason)
    for path in REGISTRATIONS:
        if tree.is_file(path):
            yield Item(id="", op=Op.REMOVE, kind="registration", key=path, tier=Tier.SHOULD,
                       reason=f"{path} registers the source; the clone has to be registered by itself")  # fmt: skip
    for path, why in SAID.items():
        if tree.exists(path) and (tree.is_file(path) or tree.list_dir(path)):
            yield Item(id="", op=Op.CHANGE, kind="identity", key=path, tier=Tier.SHOULD, reason=why)
