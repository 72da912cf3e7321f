"""A broker that is killed in the midst of a stream, again and again."""

from __future__ import annotations

import pytest

from tests.contract.test_stream import go_on_after, rabbit_fleet
from tests.service.rabbitmq import RabbitServer

#: How often.
KILLS = 10


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_stream_goes_on_when_the_broker_was_killed(rabbitmq_server: RabbitServer) -> None:
    for _ in range(KILLS):
        vhost = rabbitmq_server.create_vhost()
        fleet = rabbit_fleet(vhost)
        try:
            go_on_after(fleet, RabbitServer.kill)
        finally:
            fleet.close()
            rabbitmq_server.remove_vhost(vhost)
