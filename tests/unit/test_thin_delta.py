"""What thin_delta says is read exactly, or refused: what is overlooked stays old on the replica."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootpoint_common.extent import Extent
from bootpoint_common.units import KiB
from bootpoint_producer.trackers.thindelta import read_delta

BLOCK = 64 * KiB


def printed(*lines: str, left: int = 1, right: int = 2, sectors: int = 128) -> str:
    inner = "\n".join(f"    {line}" for line in lines)
    head = f'<superblock uuid="" time="1" transaction="2" data_block_size="{sectors}" nr_data_blocks="0">'
    return f'{head}\n  <diff left="{left}" right="{right}">\n{inner}\n  </diff>\n</superblock>\n'


def read(text: str) -> list[Extent]:
    return list(read_delta(io.BytesIO(text.encode()), left=1, right=2, block_bytes=BLOCK))


def test_everything_but_the_same_may_differ() -> None:
    text = printed(
        '<same begin="0" length="100"/>',
        '<different begin="100" length="10"/>',
        '<left_only begin="110" length="1"/>',
        '<right_only begin="120" length="4"/>',
    )
    assert read(text) == [Extent(100 * BLOCK, 10 * BLOCK), Extent(110 * BLOCK, BLOCK), Extent(120 * BLOCK, 4 * BLOCK)]
    assert read(printed()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "broken"),
        (printed('<same begin="0" length="1"/>').removesuffix("</superblock>\n"), "broken"),
        (printed(left=7), "left"),
        (printed(right=7), "right"),
        (printed(sectors=256), "data_block_size"),
        (printed('<moved begin="0" length="1"/>'), "moved"),
        (printed('<different begin="5" length="1"/>', '<different begin="5" length="1"/>'), "after block 6"),
        (printed('<different begin="5" length="0"/>'), "0 blocks"),
        (printed('<different begin="-5" length="1"/>'), "begin"),
        (printed('<different begin="0" length="9999999999999"/>'), "length"),
        (printed('<different begin="0"/>'), "length"),
        ('<superblock data_block_size="128"/>', "nothing"),
        ("<!DOCTYPE x [<!ENTITY a 'aaaa'>]>" + printed(), "document type"),
    ],
)
def test_what_is_not_of_this_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(text)


@given(st.lists(st.tuples(st.sampled_from(["same", "different", "left_only", "right_only"]), st.integers(1, 50))))
def test_any_mapping_comes_back(runs: list[tuple[str, int]]) -> None:
    at, lines, wanted = 0, [], []
    for tag, length in runs:
        lines.append(f'<{tag} begin="{at}" length="{length}"/>')
        if tag != "same":
            wanted.append(Extent(at * BLOCK, length * BLOCK))
        at += length
    assert read(printed(*lines)) == wanted
