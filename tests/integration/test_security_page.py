"""docs/security.md, pasted: roles for processes, and what is done when something was stolen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pika
import psycopg
import pytest
from pika.exceptions import ConnectionClosedByBroker, ProbableAuthenticationError

from bootpoint_common.crypto import Token
from bootpoint_common.store.role import Role
from tests.service.component import need
from tests.service.rabbitmq import VirtualHost

PAGE = Path(__file__).parents[2] / "docs/security.md"


def test_the_page_does_what_it_says(database: str, vhost: VirtualHost, tmp_path: Path) -> None:
    need("postgresql")
    roles, agent, sender, login = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "admin").write_text(vhost.broker.admin_url())
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_BROKER_URL": vhost.url,
        "BOOTPOINT_BROKER_ADMIN_URL_FILE": str(tmp_path / "admin"),
    }

    def paste(text: str) -> str:
        done = subprocess.run(["bash", "-euc", text], env=environment, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr
        return done.stdout

    paste(roles)
    worker = database.replace("postgres@", "bp_worker_1@")
    with psycopg.connect(worker, autocommit=True) as connection:
        assert connection.execute(b"SELECT pg_has_role(%s, 'MEMBER')", [str(Role.WORKER)]).fetchone() == (True,)
        paste(login)
        with pytest.raises(psycopg.OperationalError):
            connection.execute(b"SELECT 1")

    first = paste("bootpoint agent enroll erp-db").strip()
    stolen = pika.BlockingConnection(pika.URLParameters(Token.decode(first).broker_url))
    second = paste(agent).strip().splitlines()[-1]
    with pytest.raises(ConnectionClosedByBroker):
        stolen.process_data_events(10)
    with pytest.raises(ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(Token.decode(first).broker_url))
    pika.BlockingConnection(pika.URLParameters(Token.decode(second).broker_url)).close()

    url = paste("bootpoint event user ups --source erp-db").strip()
    anew = paste(sender).strip().splitlines()[-1]
    with pytest.raises(ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(url))
    pika.BlockingConnection(pika.URLParameters(anew)).close()
