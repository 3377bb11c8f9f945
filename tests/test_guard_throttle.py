"""The brake on guessing: by a clock that only the test turns."""

from __future__ import annotations

import pytest

from harmony4.server.guard.throttle import FORGET, FREE, LONGEST, Throttle, network

ONE, OTHER = "192.0.2.1", "192.0.2.2"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(throttle: Throttle, address: str, times: int) -> None:
    for _ in range(times):
        throttle.failed(address, "a")


@pytest.mark.parametrize(
    ("address", "one"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("-", "-"),
    ],
)
def test_what_counts_as_one_client(address: str, one: str) -> None:
    assert network(address) == one


def test_waiting_doubles(clock: Clock) -> None:
    throttle = Throttle(clock)
    fail(throttle, ONE, FREE - 1)
    assert throttle.wait(ONE, "a") == 0
    for expected in (1, 2, 4, 8, 16, 32, LONGEST, LONGEST, LONGEST):
        throttle.failed(ONE, "a")
        assert throttle.wait(ONE, "a") == expected
        assert throttle.wait(OTHER, "a") == 0
        clock.now += expected - 0.5
        assert throttle.wait(ONE, "a") == 0.5
        clock.now += 0.5
        assert throttle.wait(ONE, "a") == 0


def test_how_many_guesses_a_day(clock: Clock) -> None:
    """Somebody who tries as soon as they may, and never stops."""
    throttle, tries = Throttle(clock), 0
    while clock.now < 1000 + 86_400:
        clock.now += throttle.wait(ONE, "a")
        throttle.failed(ONE, "a")
        tries += 1
    assert tries < FREE + 86_400 / LONGEST + 10


def test_it_is_forgotten(clock: Clock) -> None:
    throttle = Throttle(clock)
    fail(throttle, ONE, FREE + 20)
    clock.now += FORGET
    assert throttle.wait(ONE, "a") == 0
    throttle.failed(ONE, "a")
    assert throttle.wait(ONE, "a") == 0


def test_whoever_guesses_keeps_nobody_else_out(clock: Clock) -> None:
    """Somebody who knows no id and never stops trying, beside somebody with a token at the same address."""
    throttle = Throttle(clock)
    for _ in range(1000):
        clock.now += throttle.wait(ONE, "")
        throttle.failed(ONE, "")
        assert throttle.wait(ONE, "token") == 0
    throttle.failed(ONE, "other")
    assert throttle.wait(ONE, "") == LONGEST


def test_guessing_for_one_token(clock: Clock) -> None:
    throttle = Throttle(clock)
    fail(throttle, ONE, FREE)
    assert throttle.wait(ONE, "a") == 1
    assert throttle.wait(ONE, "b") == 0
    assert throttle.wait(OTHER, "a") == 0


def test_an_ipv6_network_is_one_client(clock: Clock) -> None:
    throttle = Throttle(clock)
    for number in range(FREE):
        throttle.failed(f"2001:db8::{number + 1:x}", "a")
    assert throttle.wait("2001:db8::ffff", "a") > 0
    assert throttle.wait("2001:db8:0:1::1", "a") == 0


def test_memory_is_bounded(clock: Clock) -> None:
    throttle = Throttle(clock, most=100)
    for number in range(1000):
        fail(throttle, f"10.0.{number // 250}.{number % 250}", FREE)
    assert len(throttle._failures) == 100
    assert throttle.wait("10.0.3.249", "a") > 0  # the newest are known
    assert throttle.wait("10.0.0.0", "a") == 0
