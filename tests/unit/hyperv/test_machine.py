"""What a VM's notes and checkpoints say of its points."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from bootpoint_common.identity import new_id
from bootpoint_worker.targets.hyperv.machine import marked, state_of
from bootpoint_worker.targets.snapshots.vm import notes, owner


def _checkpoint(name: str, text: str, parent: str | None = None) -> dict[str, Any]:
    return {"id": name, "name": name, "notes": text, "parent": parent, "drives": []}


def _state(text: str | None, *checkpoints: dict[str, Any]) -> dict[str, Any]:
    current = checkpoints[-1]["id"] if checkpoints else None
    machine = {"state": "Off", "notes": text}
    return {"machine": machine, "current": current, "merging": False, "drives": [], "checkpoints": list(checkpoints)}


def test_a_mark_takes_the_place_of_an_older_one_and_leaves_the_rest() -> None:
    replica, first, second = new_id(), new_id(), new_id()
    text = marked(marked(notes(replica, "erp"), first), second)
    assert state_of(_state(text)).mark == str(second)
    assert text.count("bootpoint-open") == 1
    assert owner(text) == (replica, None)
    # Windows ends lines in its own way.
    assert owner(text.replace("\n", "\r\n")) == (replica, None)
    assert state_of(_state(text.replace("\n", "\r\n"))).mark == str(second)


def test_a_checkpoint_is_a_points_by_its_notes_and_its_name() -> None:
    point = new_id()
    text = marked(notes(new_id(), "erp"), point)
    state = state_of(
        _state(
            text,
            _checkpoint("V20261203_100100", text),
            # Somebody made one while the point was open: it has the notes, too.
            _checkpoint("erp - (12/3/2026 - 10:00:00 AM)", text, parent="V20261203_100100"),
        )
    )
    ids: list[UUID | None] = [node.point_id for node in state.tree.values()]
    assert ids == [point, None]
    assert state.tree["V20261203_100100"].children == ("erp - (12/3/2026 - 10:00:00 AM)",)


def test_a_vm_without_notes_is_nobodys() -> None:
    state = state_of(_state(None))
    assert (state.mark, state.current, state.tree) == (None, None, {})
