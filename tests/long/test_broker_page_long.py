"""docs/broker.md, pasted: what it installs is what the tests' broker runs with, and its commands do what it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pika
import pytest
from pika.exceptions import AMQPConnectionError

from bootpoint_common.stream.rabbit import agent_permissions
from bootpoint_common.stream.rabbit_access import parameters
from bootpoint_common.stream.rabbit_part import RabbitPublisher
from tests.service.component import need
from tests.service.process import wait_for
from tests.service.rabbitmq import INSTALLED, VirtualHost
from tests.system.test_events_page import Reader, environment

PAGE = Path(__file__).parents[2] / "docs/broker.md"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_broker_is_set_up_and_an_agent_that_sends_without_end_is_ended_by_what_the_page_has(
    database: str, vhost: VirtualHost, tmp_path: Path
) -> None:
    need("root")
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    *setup, ending = blocks
    reader = Reader(tmp_path / "machine", environment(database, vhost, tmp_path))
    shutil.copytree(INSTALLED, tmp_path / "machine/ops/rabbitmq")
    (tmp_path / "machine/etc/bootpoint").mkdir(exist_ok=True)
    (tmp_path / "machine/etc/bootpoint/broker-password").write_text("s3cret")
    try:
        reader.paste("\n".join(setup))
        for name in ("rabbitmq.conf", "enabled_plugins", "definitions.json"):
            assert (tmp_path / "machine/etc/rabbitmq" / name).read_bytes() == (INSTALLED / name).read_bytes()
        url = f"amqp://{{}}@127.0.0.1:{vhost.broker.port}/bootpoint"
        pika.BlockingConnection(pika.URLParameters(url.format("bootpoint:s3cret"))).close()
        with pytest.raises(AMQPConnectionError):
            pika.BlockingConnection(pika.URLParameters(url.format("guest:guest")))

        login = f"{vhost.name}-mallory"
        publisher = RabbitPublisher(parameters(vhost.login(login, agent_permissions(login)), "mallory"))
        publisher.open()
        reader.paste("bootpoint db migrate")
        reader.paste(f"bootpoint agent enroll {login} >/dev/null")
        said = reader.paste(ending, LOGIN=login)
        assert f"{login}\trunning" in said
        wait_for(lambda: not publisher.alive, "the end of the connection")
    finally:
        vhost.broker.api("DELETE", "users/bootpoint")


@pytest.mark.long
def test_the_settings_of_a_machine_go_before_those_of_everybody(vhost: VirtualHost) -> None:
    known = vhost.broker.ctl("environment")
    assert "{max_message_size,67108864}" in known
    assert "{consumer_timeout,1800000}" in known
    assert '{disk_free_limit,"104857600"}' in known or "{disk_free_limit,104857600}" in known
    assert [row["name"] for row in vhost.broker.api("GET", "users")].count("guest") == 0
