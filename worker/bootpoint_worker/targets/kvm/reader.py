"""A reader's server on the host."""

from __future__ import annotations

import secrets

from bootpoint_worker.targets.kvm import script
from bootpoint_worker.targets.kvm.client import connected
from bootpoint_worker.targets.kvm.nbdtls import NbdTls
from bootpoint_worker.targets.kvm.place import Place
from bootpoint_worker.targets.kvm.qcow2 import layer_id
from bootpoint_worker.targets.kvm.session import Session, check
from bootpoint_worker.targets.nbdreader import ALLOCATION, NbdReader


def open_file(
    session: Session, place: Place, file: str, size_bytes: int, tls: NbdTls | None = None
) -> NbdReader:
    """Start a server for a layer's file, and return a reader of it."""
    layer, name = layer_id(file), secrets.token_hex(4)
    words = tls.words() if tls else []
    said = place.run("show", file, layer, name, *words, what=f"show {file}").text

    def release() -> None:
        check(session, session.run(script.script("hide"), layer, name), "end a reader's server")

    try:
        client = connected(session, said.strip(), contexts=(ALLOCATION,), tls=tls)
    except BaseException:
        release()
        raise
    return NbdReader(client=client, size_bytes=size_bytes, host=session.host, release=release)
