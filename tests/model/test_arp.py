"""The question on the wire, to the byte, and what counts as an answer."""

from __future__ import annotations

import pytest

from agent.model.arp import probe_packet, sender_of

PROBE = "ffffffffffff525400bb000108060001080006040001525400bb0001000000000000000000000a000005"
ANSWER = "525400bb0001525400cc000108060001080006040002525400cc00010a000005525400bb000100000000"


@pytest.mark.adapts("N9", "T1")
def test_a_probe_has_no_sender_address_and_an_answer_names_who_has_it() -> None:
    assert probe_packet("52:54:00:bb:00:01", "10.0.0.5").hex() == PROBE
    assert sender_of(bytes.fromhex(ANSWER) + bytes(18)) == ("10.0.0.5", "52:54:00:cc:00:01")  # padded as Ethernet does


@pytest.mark.parametrize("packet", [b"", bytes.fromhex(ANSWER)[:41], bytes.fromhex(ANSWER.replace("0806", "0800", 1))])
def test_anything_else_is_no_answer(packet: bytes) -> None:
    assert sender_of(packet) is None
