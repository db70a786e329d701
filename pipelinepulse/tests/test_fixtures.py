"""What the tests stand on: private servers, a sandbox of one's own, and no way out."""

import socket

import psycopg
import pytest
from pytest_socket import SocketConnectBlockedError
from redis import Redis


def test_sandbox_of_one_test_is_not_that_of_another(sandbox) -> None:
    before = len(list(sandbox.control("dump", module="Deals")["records"]))
    first = sandbox.control("dump", module="Deals")["records"][0]["id"]
    sandbox.control("delete", module="Deals", ids=[first], type="permanent")
    assert before == 50
    assert len(sandbox.control("dump", module="Deals")["records"]) == 49


def test_sandbox_is_whole_again(sandbox) -> None:
    assert len(sandbox.control("dump", module="Deals")["records"]) == 50


@pytest.mark.processes
def test_postgres_of_the_tests_takes_a_connection(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("select 1 + 1").fetchone() == (2,)


@pytest.mark.processes
@pytest.mark.redis
def test_redis_of_the_tests_answers(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.ping()


@pytest.mark.filterwarnings("ignore:A test tried to use")
def test_network_beyond_this_machine_is_out_of_reach() -> None:
    with socket.socket() as beyond, pytest.raises(SocketConnectBlockedError):
        beyond.connect(("192.0.2.1", 80))


def test_people_have_their_roles(rep, manager, ops, integrator) -> None:
    roles = [user.groups.get().name for user in (rep, manager, ops, integrator)]
    assert roles == ["sales rep", "sales manager", "ops", "integrator"]
    assert [user.is_staff for user in (rep, manager, ops, integrator)] == [0, 0, 1, 0]
