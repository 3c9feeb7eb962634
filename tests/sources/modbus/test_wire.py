from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DeviceRefused, WireError
from gateway.sources.modbus.wire import Exchange, Request

REQUEST = Request(unit_id=17, function=3, address=107, quantity=3)
# Application Protocol 1.1b3, 6.3: the example of reading holding registers 108-110.
PDU = bytes.fromhex("03 06 02 2b 00 00 00 64")
BLOCK = PDU[2:]


def answer(
    transaction_id: int = 9, protocol: int = 0, length: int | None = None, unit_id: int = 17,
    pdu: bytes = PDU,
) -> bytes:  # fmt: skip
    size = len(pdu) + 1 if length is None else length
    head = transaction_id.to_bytes(2, "big") + protocol.to_bytes(2, "big")
    return head + size.to_bytes(2, "big") + bytes([unit_id]) + pdu


def test_a_request_is_encoded_as_the_standard_shows() -> None:
    assert Exchange(9, REQUEST).encode() == bytes.fromhex("0009 0000 0006 11 03 006b 0003")


@pytest.mark.parametrize("chunk", [1, 2, 7, 4096])
def test_the_answer_is_the_same_for_any_chunking(chunk: int) -> None:
    exchange, data = Exchange(9, REQUEST), answer()
    parts = [data[i : i + chunk] for i in range(0, len(data), chunk)]
    found = [exchange.feed(part) for part in parts]
    assert found == [None] * (len(parts) - 1) + [BLOCK]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (answer(transaction_id=8), "transaction_id"),
        (answer(transaction_id=0), "transaction_id"),
        (answer(protocol=1), "protocol_id"),
        (answer(unit_id=18), "unit_id"),
        (answer(pdu=b"\x04" + PDU[1:]), "function"),
        (answer(pdu=b"\x03\x04" + BLOCK[:4]), "byte_count"),
        (answer(pdu=b"\x03\x08" + BLOCK + b"\0\0"), "byte_count"),
        (answer(pdu=b"\x03\x05" + BLOCK[:5]), "byte_count"),
        (answer(pdu=b"\x03\x06" + BLOCK[:4]), "byte_count"),
        (answer(length=0), "length"),
        (answer(length=2), "length"),
        (answer(length=255), "length"),
        (answer(length=65535), "length"),
        (answer(pdu=b"\x83\x02\x00"), "length"),
        (answer() + b"\0", "trailing"),
        (answer() + answer(transaction_id=10), "trailing"),
        (answer(pdu=b"\x83\x02") + b"\0", "trailing"),
    ],
)
def test_what_was_not_asked_for_is_never_a_value(data: bytes, kind: str) -> None:
    with pytest.raises(WireError) as caught:
        Exchange(9, REQUEST).feed(data)
    assert caught.value.kind == kind
    assert "unit 17" in str(caught.value)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 8, 10, 11, 99])
def test_an_exception_names_the_device_the_address_and_a_next_step(code: int) -> None:
    with pytest.raises(DeviceRefused) as caught:
        Exchange(9, REQUEST).feed(answer(pdu=bytes([0x83, code])))
    assert (caught.value.unit_id, caught.value.address, caught.value.code) == (17, 107, code)
    assert caught.value.hint


requests = st.builds(
    Request,
    st.integers(0, 255),
    st.sampled_from([3, 4]),
    st.integers(0, 65000),
    st.integers(1, 125),
) | st.builds(
    Request,
    st.integers(0, 255),
    st.sampled_from([1, 2]),
    st.integers(0, 60000),
    st.integers(1, 2000),
)


@given(requests, st.integers(1, 65535), st.data())
def test_a_right_answer_gives_its_block_whatever_the_chunks(
    request: Request, transaction_id: int, data: st.DataObject
) -> None:
    block = data.draw(st.binary(min_size=request.block_bytes, max_size=request.block_bytes))
    pdu = bytes([request.function, len(block)]) + block
    wire = answer(transaction_id, 0, None, request.unit_id, pdu)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    exchange = Exchange(transaction_id, request)
    found = [
        exchange.feed(wire[a:b])
        for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)
        if b > a
    ]
    assert found[-1] == block
    assert set(found[:-1]) <= {None}


@given(st.binary(max_size=300), st.integers(1, 300))
def test_any_bytes_raise_nothing_but_ours_and_make_no_value(data: bytes, chunk: int) -> None:
    exchange = Exchange(9, REQUEST)
    try:
        for start in range(0, len(data), chunk):
            block = exchange.feed(data[start : start + chunk])
            if block is not None:
                assert data[: start + chunk] == answer(pdu=b"\x03\x06" + block)
                return
    except (WireError, DeviceRefused):
        pass


@given(requests)
def test_no_request_that_writes_can_be_built(request: Request) -> None:
    assert Exchange(1, request).encode()[7] in (1, 2, 3, 4)
