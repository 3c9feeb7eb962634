"""Tags on disk outlive the configuration they came from."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import SpoolDamaged
from gateway.frame import Lane
from gateway.spool.dictionary import Dictionary, decode_tags, encode_tags
from gateway.tag import DataType, Tag, TagTable
from tests.samples import make_tag

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.floats(allow_nan=False)

tags = st.builds(
    Tag,
    name=TEXT,
    asset=TEXT,
    asset_class=TEXT,
    field=TEXT,
    measurement=TEXT,
    labels=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
    lane=st.sampled_from(Lane),
    source=TEXT,
    data_type=st.sampled_from(DataType),
    scale=NUMBER,
    offset=NUMBER,
    eng_unit=TEXT,
    eu_low=NUMBER,
    eu_high=NUMBER,
    deadband=NUMBER,
)


@given(st.lists(tags, max_size=4))
def test_every_attribute_of_a_tag_comes_back(some: list[Tag]) -> None:
    assert decode_tags(encode_tags(some)) == some


@given(st.binary(max_size=60))
def test_bytes_that_are_not_tags_are_refused(data: bytes) -> None:
    try:
        decode_tags(data)
    except SpoolDamaged:
        return
    assert data


def test_a_tag_that_exists_keeps_its_present_definition(table: TagTable) -> None:
    now = make_tag("pump.flow", eng_unit="l/min")
    tag_id = table.add(now)
    dictionary = Dictionary()
    dictionary.add(0, [make_tag("pump.flow", eng_unit="m3/h")])
    assert dictionary.table_ids(table).tolist() == [tag_id, -1]
    assert table[tag_id] is now
    # ... and is written anew by whoever continues the segment, since it is another tag.
    assert dictionary.local_ids(table) == {}


def test_a_tag_that_is_gone_is_added_as_it_was(table: TagTable) -> None:
    old = make_tag("pump.gone", eng_unit="bar", eu_low=0.0)
    dictionary = Dictionary()
    dictionary.add(0, [old])
    (tag_id, _) = dictionary.table_ids(table).tolist()
    assert table[tag_id] == old


def test_a_full_table_leaves_a_tag_out_and_says_so() -> None:
    table = TagTable(tags_max=1)
    dictionary = Dictionary()
    dictionary.add(0, [make_tag("a.x"), make_tag("b.x")])
    assert dictionary.table_ids(table).tolist() == [0, -1, -1]


def test_ids_of_a_damaged_tags_record_are_known_to_be_unknown(table: TagTable) -> None:
    dictionary = Dictionary()
    dictionary.add(2, [make_tag("c.x")])
    ids = np.array([0, 1, 2, 3, 2], np.int32)
    assert dictionary.unknown(ids) == 3
    assert dictionary.table_ids(table).tolist() == [-1, -1, table.id_of("c.x"), -1]


def test_attributes_of_a_later_version_are_passed_over() -> None:

    text = (
        b'[{"name":"a.x","asset":"a","asset_class":"p","field":"x","measurement":"p","colour":1}]'
    )
    (tag,) = decode_tags(zlib.compress(text, wbits=-15))
    assert tag.name == "a.x"


def test_a_tag_without_a_name_is_damage() -> None:

    with pytest.raises(SpoolDamaged):
        decode_tags(zlib.compress(b'[{"asset":"a"}]', wbits=-15))
