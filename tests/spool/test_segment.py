"""What a segment's bytes are, which of them are believed, and how much is missing otherwise."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.frame import Frame, Lane
from gateway.spool.columns import Columns, decode_columns, encode_columns
from gateway.spool.dictionary import decode_tags
from gateway.spool.segment import (
    FRAMES,
    GIVEN_UP_START,
    HEADER_BYTES,
    RECORDS_START,
    SUMMARY_START,
    TAGS,
    GivenUp,
    Record,
    SegmentHeader,
    Summary,
    decode_given_up,
    decode_header,
    decode_record,
    decode_summary,
    encode_given_up,
    encode_header,
    encode_record,
    encode_summary,
    payload_of,
    scan,
    seed_of,
    summary_of,
)
from tests.samples import make_tag

# Format version 1, as docs/formats/spool.md has it. These bytes are on people's disks: if they
# cannot be read any more, the version must rise and the old one stay readable.
HEADER = bytes.fromhex(
    "536c67530103000007000000000000002900000000000000e803000000000000000000000000000088776655"
    "443322110000faed51728618b6d1928c"
)

TAGS_RECORD = bytes.fromhex(
    "536c6752010200006e000000d30b244d722141d5000000002900000000000000e80300000000000000000000"
    "00000000887766554433221115cd5b0700000000000000000000000000000000000000000000000000000080"
    "0000000000000000000000002f1a8cb0958e410ac3300c04ffa2b369eefd8a31414d37c520a921b6e9a1e4ef"
    "75894392634e62571a31fe4bc60abad35474ba8df2fe90234e09b9755bec07a9732fc70879d6d81005a73243"
    "610750f801a98cf7eda55b37213882bdfa62f17f2d9d46a3c59d5d52e68c8b321b73d166093f0000"
)

FRAMES_RECORD = bytes.fromhex(
    "536c6752010100005f000000ba845fa92f1a8cb0010000002a00000000000000e80300000000000000000000"
    "00000000887766554433221116cd5b07000000000000faed5172861800ca942952728618002f624752728618"
    "030000000100000002000000523a6de33300000063d04f720f2a6a936066808253bf1866bd65b00e64602862"
    "6068636090008a33fe67608023984218fde307837d7d03038323008b8e36d451308ad5518856cacf53d25130"
    "b43031313337313130373637b03435353433348d8d050000"
)

SUMMARY = bytes.fromhex(
    "536c674501000000a01100000000000001000000000000002b00000000000000e803000000000000eb030000"
    "0000000000000000000000000000faed5172861800ca942952728618002f62475272861841cdf58d"
)

GIVEN_UP = bytes.fromhex("536c67550100000026000000000000008403000000000000aeade34d")

SEED = seed_of(Lane.RAW, 7)
START = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z


def golden_segment() -> bytes:
    data = bytearray(8192)
    data[: len(HEADER)] = HEADER
    data[GIVEN_UP_START : GIVEN_UP_START + len(GIVEN_UP)] = GIVEN_UP
    data[SUMMARY_START : SUMMARY_START + len(SUMMARY)] = SUMMARY
    records = TAGS_RECORD + FRAMES_RECORD
    data[RECORDS_START : RECORDS_START + len(records)] = records
    return bytes(data)


def test_the_golden_segment_is_read() -> None:
    data = golden_segment()
    header = decode_header(data)
    assert header == SegmentHeader(3, 7, 41, 1000, 0, 0x1122334455667788, START)
    tags, frames = scan(data, SEED)
    assert tags.record.kind == TAGS
    assert tags.is_chained
    assert tags.offset == RECORDS_START
    payload = payload_of(data, tags.offset, tags.record)
    assert payload is not None
    assert decode_tags(payload) == [
        make_tag("pump.flow", eng_unit="l/min"),
        make_tag("pump.state"),
    ]
    assert frames.record._replace(payload_crc=0, previous_crc=0) == Record(
        kind=FRAMES,
        payload_bytes=95,
        payload_crc=0,
        previous_crc=0,
        batch_index=1,
        sequence=42,
        samples_before=1000,
        raw_sequence=0,
        boot_id=0x1122334455667788,
        monotonic_ns=123456790,
        t_ns_min=START,
        t_ns_max=START + 10**9,
        now_ns_max=START + 1_500_000_000,
        samples=3,
        turns=1,
        tags=2,
    )
    assert frames.record.previous_crc == tags.checksum
    payload = payload_of(data, frames.offset, frames.record)
    assert payload is not None
    columns = decode_columns(payload, 1, 3)
    assert columns.now_ns.tolist() == [START + 1_500_000_000]
    assert columns.frame.t_ns.tolist() == [START, START, START + 10**9]
    assert columns.frame.tag_ids.tolist() == [0, 1, 0]
    expected = np.array([1.5, np.nan, -0.0])
    assert columns.frame.values.tobytes() == expected.tobytes()
    assert columns.frame.quality.tolist() == [0, 0, 0x41]
    assert dict(columns.frame.exact) == {1: "on", 2: 2**64 - 1}
    summary = summary_of(header)
    for this in (tags, frames):
        summary = summary.with_record(this.offset, this.record)
    assert decode_summary(data, SEED) == summary
    assert summary.samples_end == 1003
    assert decode_given_up(data, SEED) == GivenUp(38, 900)


def test_what_is_written_is_the_golden_segment() -> None:
    data = golden_segment()
    assert encode_header(SegmentHeader(3, 7, 41, 1000, 0, 0x1122334455667788, START)) == HEADER
    summary = decode_summary(data, SEED)
    assert summary is not None
    assert encode_summary(summary, SEED) == SUMMARY
    assert encode_given_up(GivenUp(38, 900), SEED) == GIVEN_UP
    for this in scan(data, SEED):
        payload = payload_of(data, this.offset, this.record)
        assert payload is not None
        written = encode_record(this.record, payload, SEED)
        assert written == (data[this.offset : this.end], this.checksum)


@given(sequence=st.integers(0, 2**64 - 1), samples=st.integers(0, 2**64 - 1), data=st.data())
def test_what_was_given_up_is_read_as_written_and_no_damage_of_it_is_believed(
    sequence: int, samples: int, data: st.DataObject
) -> None:
    segment = bytearray(RECORDS_START)
    encoded = encode_given_up(GivenUp(sequence, samples), SEED)
    segment[GIVEN_UP_START : GIVEN_UP_START + len(encoded)] = encoded
    assert decode_given_up(bytes(segment), SEED) == GivenUp(sequence, samples)
    # Of a file's former life, or cut off.
    assert decode_given_up(bytes(segment), seed_of(Lane.RAW, 8)) is None
    end = GIVEN_UP_START + len(encoded)
    assert decode_given_up(bytes(segment[: data.draw(st.integers(0, end - 1))]), SEED) is None
    segment[data.draw(st.integers(GIVEN_UP_START, end - 1))] ^= data.draw(st.integers(1, 255))
    assert decode_given_up(bytes(segment), SEED) is None


def frames_record(sequence: int, previous_crc: int, *, index: int = 0, n: int = 3) -> Record:
    return Record(
        kind=FRAMES,
        payload_bytes=0,
        payload_crc=0,
        previous_crc=previous_crc,
        batch_index=index,
        sequence=sequence,
        samples_before=sequence * n,
        raw_sequence=0,
        boot_id=1,
        monotonic_ns=2,
        t_ns_min=0,
        t_ns_max=0,
        now_ns_max=0,
        samples=n,
        turns=1,
        tags=1,
    )


def payload(n: int = 3) -> bytes:
    frame = Frame.of(5, np.zeros(n, np.int32), np.arange(n, dtype=np.float64))
    return encode_columns(Columns(np.array([7]), np.array([n]), frame))


def chain(
    batches: list[int], seed: int = SEED, first: int = 0, crc: int | None = None, made_ns: int = 2
) -> bytes:
    """Records in batches of these lengths, one after the other."""
    crc = seed if crc is None else crc
    data, sequence = b"", first
    for batch in batches:
        for index in range(batch):
            body = payload()
            record = frames_record(sequence, crc, index=index)._replace(
                payload_bytes=len(body), payload_crc=zlib.crc32(body), monotonic_ns=made_ns
            )
            one, crc = encode_record(record, body, seed)
            data += one
            sequence += 1
    return data


ONE = len(chain([1]))


def segment(records: bytes, size: int = 8192) -> bytearray:
    return bytearray((bytes(RECORDS_START) + records).ljust(size, b"\0"))


def sequences(data: bytes | bytearray, seed: int = SEED, **options: int) -> list[int]:
    return [f.record.sequence for f in scan(bytes(data), seed, **options)]  # type: ignore[arg-type]


def at(i: int) -> int:
    """Offset of the i-th record."""
    return RECORDS_START + i * ONE


def test_a_record_of_another_file_or_of_a_former_life_is_never_believed() -> None:
    for lane in Lane:
        for number in (6, 7, 8, 7 + 2**32):
            if (lane, number) != (Lane.RAW, 7):
                former = segment(chain([1, 1, 1], seed=seed_of(lane, number)))
                assert sequences(former) == []
                # ... nor when it stands, aligned, behind records of today.
                former[at(0) : at(1)] = chain([1], first=9)
                assert sequences(former) == [9]
                assert (
                    decode_summary(
                        encode_summary(Summary(*[0] * 10), seed_of(lane, number)).rjust(700), SEED
                    )
                    is None
                )


def test_records_behind_a_damaged_one_are_found() -> None:
    data = segment(chain([1, 1, 1, 1]))
    data[at(1) + 20] ^= 1  # a header
    assert sequences(data) == [0, 2, 3]
    data = segment(chain([1, 1, 1, 1]))
    data[at(1) + HEADER_BYTES + 3] ^= 1  # a payload: found while nothing reads it
    assert sequences(data) == [0, 1, 2, 3]
    assert sequences(data, is_last=True) == [0, 2, 3]


def test_an_unfinished_batch_at_the_end_counts_as_not_written() -> None:
    data = segment(chain([1, 1, 3]))
    data[at(3) + 30] ^= 1  # the second of three is torn, the third is there
    assert sequences(data) == [0, 1, 2, 4]
    assert sequences(data, is_last=True) == [0, 1, 2]
    data = segment(chain([1, 1, 3]))
    data[at(2) + 30] ^= 1  # the first is torn
    assert sequences(data, is_last=True) == [0, 1]


def test_a_batch_with_a_later_one_behind_it_was_finished() -> None:
    data = segment(chain([1, 3, 1]))
    data[at(2) + 30] ^= 1
    assert sequences(data, is_last=True) == [0, 1, 3, 4]


def test_what_a_torn_batch_left_behind_is_not_believed_later() -> None:
    torn = chain([1, 3])
    data = segment(torn)
    data[at(1) + 30] ^= 1
    assert sequences(data, is_last=True) == [0]
    first = scan(bytes(data), SEED, is_last=True)[0]
    # After the restart there is another one of the same length in its place.
    data[at(1) : at(2)] = chain([1], first=1, crc=first.checksum, made_ns=3)
    assert sequences(data, is_last=True) == [0, 1]


def test_tags_that_no_frames_follow_are_left_out_at_the_end() -> None:
    data = segment(TAGS_RECORD)
    assert len(scan(bytes(data), SEED)) == 1
    assert scan(bytes(data), SEED, is_last=True) == []


def test_what_was_written_again_in_the_next_segment_is_left_out() -> None:
    assert sequences(segment(chain([1, 1, 1])), limit=2) == [0, 1]


@pytest.mark.parametrize("cut", range(1, ONE))
def test_a_record_cut_anywhere_is_not_believed(cut: int) -> None:
    whole = chain([1, 1])
    assert sequences(segment(whole[: ONE + cut]), is_last=True) in ([0], [0, 1])
    assert (whole[ONE + cut :].strip(b"\0") == b"") == (
        sequences(segment(whole[: ONE + cut]), is_last=True) == [0, 1]
    )
    assert sequences(bytes(RECORDS_START) + whole[: ONE + cut]) == [0]


@settings(max_examples=300)
@given(st.binary(max_size=600), st.integers(0, 2**32 - 1), st.booleans())
def test_any_bytes_can_be_scanned(data: bytes, seed: int, is_last: bool) -> None:
    whole = bytes(RECORDS_START) + data
    assert scan(whole, seed, is_last=is_last) == []
    assert scan(data, seed, is_last=is_last) == []
    assert decode_header(data) is None
    assert decode_summary(data, seed) is None
    assert decode_record(data, 0, seed) is None


def test_any_damage_leaves_records_that_were_written_in_their_order() -> None:
    rng = random.Random(5)
    clean = segment(chain([1, 2, 1, 3, 1]))
    records = {f.record for f in scan(bytes(clean), SEED)}
    for _ in range(2000):
        data = bytearray(clean)
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(data))
            size = rng.choice((1, 8, 512))
            match rng.randrange(3):
                case 0:
                    data[start : start + size] = rng.randbytes(len(data[start : start + size]))
                case 1:
                    data[start : start + size] = bytes(len(data[start : start + size]))
                case _:  # a sector that went to the wrong place
                    there = rng.randrange(0, len(data), 8)
                    data[start : start + size] = data[there : there + size]
            del data[len(clean) :]
        for is_last in (False, True):
            found = [f.record for f in scan(bytes(data), SEED, is_last=is_last)]
            assert set(found) <= records
            assert sorted(found, key=lambda record: record.sequence) == found


def test_a_relic_in_the_place_of_a_lost_write_is_found_by_the_chain() -> None:
    now = segment(chain([1, 1, 1, 1]))
    old = segment(chain([1, 1, 1, 1], made_ns=3))
    relic = bytearray(now)
    relic[at(1) : at(2)] = old[at(1) : at(2)]  # whole, of this segment, of the right sequence
    for is_last in (False, True):
        assert sequences(relic, is_last=is_last) == [0, 2, 3]
