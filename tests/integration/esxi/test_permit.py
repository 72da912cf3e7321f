"""Which hosts are refused, and with which words: the free licence, a vCenter above, an account without rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.esxi.client import Client
from bootpoint_worker.targets.esxi.permit import RIGHTS, require_permitted
from tests.esxi.vcsim import vcsim

#: Id of the role that vcsim gives every account on everything: an administrator's.
ROLE = -1


@contextmanager
def session(directory: Path, *flags: str) -> Iterator[Client]:
    with vcsim(directory, *flags) as simulator, closing(Client(access=simulator.access())) as client:
        yield client


def refused(client: Client, code: Code) -> BootpointError:
    with pytest.raises(BootpointError) as problem:
        require_permitted(client)
    assert problem.value.code is code, problem.value
    assert not problem.value.retryable
    return problem.value


@pytest.mark.parametrize("flags", [(), ("-vcenter",)])
def test_a_host_with_a_licence_is_taken(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with session(tmp_path, *flags) as client:
        assert require_permitted(client) == "Evaluation Mode (eval)"


def test_the_free_licence_is_refused_in_words(tmp_path: Path) -> None:
    with session(tmp_path, "-edition=esxBasic") as client:
        problem = refused(client, Code.HOST_LICENCE)
    assert "the free licence" in problem.message
    assert "give the host a licence of vSphere" in str(problem.hint)


def test_a_managed_host_is_refused_with_its_vcenter(tmp_path: Path) -> None:
    with session(tmp_path, "-manager=10.9.0.7") as client:
        problem = refused(client, Code.HOST_UNSUPPORTED)
    assert "is managed by the vCenter at 10.9.0.7" in problem.message
    assert "--address 10.9.0.7" in str(problem.hint)


@pytest.mark.parametrize("flags", [(), ("-vcenter",)])
def test_missing_rights_are_named_with_their_purpose(tmp_path: Path, flags: tuple[str, ...]) -> None:
    kept = [right.privilege for right in RIGHTS if right.privilege not in ("Network.Assign", "Datastore.Browse")]
    with session(tmp_path, *flags) as client:
        manager = client.content.authorizationManager
        client.call(lambda: manager.UpdateAuthorizationRole(roleId=ROLE, newName="Admin", privIds=kept))
        problem = refused(client, Code.HOST_PERMISSION)
        listed = "Datastore.Browse (to see the files of a standby), Network.Assign (to connect a standby to a network)"
        assert problem.message.endswith(f"lacks {listed}")
        assert "docs/esxi.md" in str(problem.hint)
        every = [right.privilege for right in RIGHTS]
        client.call(lambda: manager.UpdateAuthorizationRole(roleId=ROLE, newName="Admin", privIds=every))
        assert require_permitted(client)
