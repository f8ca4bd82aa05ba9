"""Every backend's files: which interfaces, cards and addresses they are about."""

from __future__ import annotations

from agent.model.profile import NetworkConfig
from agent.model.tree import MemoryTree
from agent.probe.addresses import static
from agent.probe.leases import read_leases
from agent.probe.network_config import read_configs


def configs(files: dict[str, str]) -> tuple[NetworkConfig, ...]:
    return read_configs(MemoryTree({path: text.encode() for path, text in files.items()}))


def only(path: str, text: str) -> NetworkConfig:
    (found,) = configs({path: text})
    assert found.path == path
    return found


def test_ifupdown() -> None:
    files = {
        "/etc/network/interfaces": (
            "# auto eth9\nsource /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\n"
            "auto ens3\nallow-hotplug ens4\n"
            "iface ens3 inet static\n    address 10.77.0.50/24\n    gateway 10.77.0.2\n"
            "iface ens3 inet6 static\n    address 2001:db8::5\n    netmask 64\n"
            "iface ens4 inet dhcp\n    hwaddress ether 52:54:00:AA:BB:CC\n"
        ),
        "/etc/network/interfaces.d/bond": (
            "iface bond0 inet static\n  address 192.0.2.9\n  netmask 255.255.255.0\n  bond-slaves eno1 \\\n  eno2\n"
        ),
    }
    main, bond = configs(files)
    assert (main.backend, main.interfaces) == ("ifupdown", ("ens3", "ens4"))
    assert main.addresses == ("10.77.0.50/24", "2001:db8::5/64")
    assert (main.macs, main.sets_macs) == ((), ("52:54:00:aa:bb:cc",))  # it gives the address, and binds to none
    assert (bond.interfaces, bond.addresses) == (("bond0", "eno1", "eno2"), ("192.0.2.9/24",))


def test_ifupdown_takes_tabs_for_spaces() -> None:
    text = "auto\tbr0\niface\tbr0 inet\tstatic\n\taddress\t192.0.2.9/24\n\tbridge_ports\teno1\teno2\n"
    found = only("/etc/network/interfaces", text + "mapping\teth0\n\tmap\t52:54:00:aa:bb:cc lan\n")
    assert (found.interfaces, found.addresses) == (("br0", "eno1", "eno2", "eth0"), ("192.0.2.9/24",))
    assert ([(one.name, one.of) for one in found.made], found.macs) == (
        [("br0", ("eno1", "eno2"))], ("52:54:00:aa:bb:cc",),
    )  # fmt: skip


def test_interfaces_that_source_each_other_end() -> None:
    files = {"/etc/network/interfaces": "source /etc/network/interfaces\niface eth0 inet dhcp\n"}
    assert {found.interfaces for found in configs(files)} == {("eth0",)}


def test_netplan() -> None:
    found = only(
        "/etc/netplan/01-netcfg.yaml",
        "network:\n  version: 2\n  renderer: networkd\n  ethernets:\n    enp3s0:\n"
        "      match:\n        macaddress: 'AA:BB:CC:00:11:22'\n      set-name: lan0\n"
        '      addresses:\n      - 192.0.2.10/24\n      - "2001:db8::10/64":\n          label: x\n'
        "      nameservers:\n        addresses: [192.0.2.53, 192.0.2.54]\n"
        "      routes:\n        - to: default\n          via: 192.0.2.1\n"
        "    eno2: {dhcp4: true}\n"
        "  bonds:\n    bond0:\n      interfaces: [eno3, eno4]\n      addresses: [198.51.100.4/25]\n",
    )
    assert found.backend == "netplan"
    assert found.interfaces == ("lan0", "eno2", "bond0", "eno3", "eno4")  # enp3s0 is a label: match decides
    assert found.macs == ("aa:bb:cc:00:11:22",)
    assert found.addresses == ("192.0.2.10/24", "2001:db8::10/64", "198.51.100.4/25")


def test_a_file_of_cloud_init_is_named_so() -> None:
    text = "network:\n    ethernets:\n        ens3:\n            dhcp4: true\n"
    assert only("/etc/netplan/50-cloud-init.yaml", text).backend == "cloud-init"


def test_networkd() -> None:
    found = only(
        "/etc/systemd/network/10-lan.network",
        "[Match]\nName=enp1s0 enp2s0\nMACAddress=52:54:00:00:00:01\n[Network]\nAddress=192.0.2.7/24\n#Address=x\n",
    )
    assert (found.interfaces, found.addresses) == (("enp1s0", "enp2s0"), ("192.0.2.7/24",))
    assert found.macs == ("52:54:00:00:00:01",)


def test_network_manager() -> None:
    found = only(
        "/etc/NetworkManager/system-connections/lan.nmconnection",
        "[connection]\nid=lan\ninterface-name=eno1\n[ethernet]\nmac-address=70:B5:E8:12:34:9A\n"
        "[ipv4]\naddress1=192.0.2.3/24,192.0.2.1\nmethod=manual\ndns=192.0.2.53;\n",
    )
    assert (found.backend, found.interfaces, found.addresses) == ("nm", ("eno1",), ("192.0.2.3/24",))
    assert found.macs == ("70:b5:e8:12:34:9a",)


def test_ifcfg_of_two_distributions() -> None:
    found = configs(
        {
            "/etc/sysconfig/network-scripts/ifcfg-eth0": 'DEVICE="eth0"\nHWADDR=00:11:22:33:44:56\nIPADDR=192.0.2.4\n'
            "NETMASK=255.255.255.128\nIPADDR1=192.0.2.5\nPREFIX1=24\n",
            "/etc/sysconfig/network-scripts/ifcfg-lo": "DEVICE=lo\nIPADDR=127.0.0.1\n",
            "/etc/sysconfig/network-scripts/ifcfg-eth0.bak": "DEVICE=eth0\n",
            "/etc/sysconfig/network/ifcfg-eth1": "BOOTPROTO='static'\nIPADDR='198.51.100.7/24'\n",
        }
    )
    assert [(each.interfaces, each.addresses, each.macs) for each in found] == [
        (("eth0",), ("192.0.2.4/25", "192.0.2.5/24"), ("00:11:22:33:44:56",)),
        (("eth1",), ("198.51.100.7/24",), ()),
    ]


def test_wicked_and_udev() -> None:
    found = configs(
        {
            "/etc/wicked/ifconfig/eth0.xml": "<interface><name>eth0</name><ipv4:static><address>"
            "<local>192.0.2.6/24</local></address></ipv4:static></interface>",
            "/etc/udev/rules.d/70-persistent-net.rules": '# NAME="old0"\nSUBSYSTEM=="net", ACTION=="add", '
            'ATTR{address}=="52:54:00:12:34:99", NAME="eth0"\n',
        }
    )
    assert [(each.backend, each.interfaces, each.addresses, each.macs) for each in found] == [
        ("wicked", ("eth0",), ("192.0.2.6/24",), ()),
        ("udev", ("eth0",), (), ("52:54:00:12:34:99",)),
    ]


def test_addresses() -> None:
    assert static("192.0.2.1", "255.255.255.0") == ["192.0.2.1/24"]
    assert static('"192.0.2.1"') == ["192.0.2.1/32"]
    assert static("") == static("dhcp") == static("999.1.1.1/24") == []


def test_what_software_makes_is_told_from_cards_by_every_backend() -> None:
    files = {
        "/etc/network/interfaces": "iface lan inet static\n  bridge_ports eno1 eno2\n  bridge_stp off\n"
        "iface uplink inet manual\n  bond-mode 1\niface eno3 inet manual\n  bond-master uplink\n"
        "iface office inet manual\n  vlan-raw-device eno1\n"
        "iface tun9 inet manual\n  pre-up ip link add name wan type dummy\n",
        "/etc/netplan/1.yaml": "network: {bonds: {up: {interfaces: [a, b]}}, tunnels: {six: {mode: sit}}}\n",
        "/etc/systemd/network/1.netdev": "[NetDev]\nName=lan\nKind=bridge\nMACAddress=02:00:00:00:00:01\n",
        "/etc/systemd/network/2.network": "[Match]\nName=eno1\n[Network]\nBridge=lan\nVLAN=office\nVLAN=guests\n",
        "/etc/NetworkManager/system-connections/b.nmconnection": "[connection]\ntype=vlan\ninterface-name=office\n"
        "[vlan]\nparent=eno1\n",
        "/etc/NetworkManager/system-connections/p.nmconnection": "[connection]\ntype=ethernet\ninterface-name=eno2\n"
        "controller=uplink\nport-type=bond\n",
        "/etc/sysconfig/network-scripts/ifcfg-uplink": "DEVICE=uplink\nTYPE=Bond\nBONDING_OPTS=mode=1\n",
        "/etc/sysconfig/network-scripts/ifcfg-eno1": "DEVICE=eno1\nMASTER=uplink\nSLAVE=yes\n"
        "MACADDR=02:00:00:00:00:02\n",
        "/etc/sysconfig/network-scripts/ifcfg-eno1.5": "DEVICE=eno1.5\nVLAN=yes\n",
        "/etc/sysconfig/network-scripts/ifcfg-by-address": "HWADDR=00:11:22:33:44:55\n",
        "/etc/sysconfig/network/ifcfg-lan": "BRIDGE='yes'\nBRIDGE_PORTS='eth0 eth1'\n",
        "/etc/sysconfig/network/ifcfg-bond0": "BONDING_MASTER='yes'\nBONDING_SLAVE_0='eth0'\nBONDING_SLAVE1='eth1'\n",
        "/etc/wicked/ifconfig/a.xml": "<interface><name>lan</name><bridge><ports><port><device>eth0</device></port>"
        "</ports></bridge></interface>\n",
    }
    made = {found.path.rpartition("/")[2]: {one.name: one.of for one in found.made} for found in configs(files)}
    assert {path: names for path, names in made.items() if names} == {
        "interfaces": {"lan": ("eno1", "eno2"), "uplink": ("eno3",), "office": ("eno1",), "wan": ()},
        "1.yaml": {"up": ("a", "b"), "six": ()},
        "1.netdev": {"lan": ()},
        "2.network": {"lan": ("eno1",), "office": ("eno1",), "guests": ("eno1",)},
        "b.nmconnection": {"office": ("eno1",)},
        "p.nmconnection": {"uplink": ("eno2",)},
        "ifcfg-uplink": {"uplink": ()},
        "ifcfg-eno1": {"uplink": ("eno1",)},
        "ifcfg-eno1.5": {"eno1.5": ("eno1",)},
        "ifcfg-lan": {"lan": ("eth0", "eth1")},
        "ifcfg-bond0": {"bond0": ("eth0", "eth1")},
        "a.xml": {"lan": ("eth0",)},
    }
    assert [found.interfaces for found in configs(files) if found.macs] == [()]  # bound by the address alone
    assert sorted(mac[-1] for found in configs(files) for mac in found.sets_macs) == ["1", "2"]


def test_addresses_of_several_interfaces_in_one_file_are_told_apart() -> None:
    text = (
        "iface a inet static\n  address 10.0.0.5\n  netmask 255.255.255.0\niface b inet static\n  address 10.0.1.5/24\n"
    )
    found = only("/etc/network/interfaces", text)
    assert [(one.interface, one.cidr) for one in found.assigned] == [("a", "10.0.0.5/24"), ("b", "10.0.1.5/24")]


def test_leases_of_every_client() -> None:
    files = {
        "/var/lib/dhcp/dhclient.ens3.leases": 'lease {\n  interface "ens3";\n  fixed-address 10.0.0.8;\n'
        '  option subnet-mask 255.255.255.0;\n}\nlease {\n  interface "ens3";\n  fixed-address 10.0.0.9;\n'
        "  option subnet-mask 255.255.255.0;\n}\n",
        "/var/lib/NetworkManager/internal-6e1b3c9a-8a0e-4d6a-9b8f-2f0d3f3a1c11-ens4.lease": "ADDRESS=10.0.1.9\n"
        "NETMASK=255.255.255.0\n",
        "/var/lib/wicked/lease-eth0-dhcp-ipv4.xml": "<lease><ipv4:dhcp><address>10.0.2.9</address>"
        "<netmask>255.255.255.0</netmask></ipv4:dhcp></lease>",
        "/var/lib/dhcp/dhclient.broken.leases": "lease {\n  fixed-address nonsense;\n}\n",
    }
    found = read_leases(MemoryTree({path: text.encode() for path, text in files.items()}))
    assert {lease.interface: lease.cidr for lease in found} == {
        "ens3": "10.0.0.9/24",
        "ens4": "10.0.1.9/24",
        "eth0": "10.0.2.9/24",
    }


def test_drop_ins_and_configuration_of_network_manager_bind_too() -> None:
    found = configs(
        {
            "/etc/systemd/network/10-a.network.d/b.conf": "[Match]\nMACAddress=52-54-00-AA-00-01\n"
            "Path=pci-0000:00:03.0\n",
            "/etc/NetworkManager/conf.d/a.conf": "[keyfile]\nunmanaged-devices=mac:52:54:00:aa:00:02\n",
            "/etc/NetworkManager/conf.d/b.conf": "[main]\ndns=none\n",
        }
    )
    assert [(one.backend, one.macs, one.match_paths) for one in found] == [
        ("networkd", ("52:54:00:aa:00:01",), ("pci-0000:00:03.0",)),
        ("nm", ("52:54:00:aa:00:02",), ()),
    ]
