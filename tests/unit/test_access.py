"""Policy: who comes in, from which pages and names, how often; every refusal says what to do."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_api.access import policy as policy_module
from streaming_api.access import rates as rates_module
from streaming_api.access.client import SCOPES, Client
from streaming_api.access.policy import TICKET_SECONDS, Policy
from streaming_api.access.rates import Bucket, Buckets
from streaming_api.config import ApiKey, StreamingConfig
from streaming_api.config.types import Scope
from streaming_api.errors import Forbidden, TooMany, Unauthorized
from tests.fakes.engine import Clock


@pytest.fixture
def clock() -> Iterator[Clock]:
    """The time that access see."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(policy_module, "time", clock)
        patch.setattr(rates_module, "time", clock)
        yield clock


def key(name: str, secret: str, scope: Scope = "chat") -> ApiKey:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return ApiKey(name=name, sha256=digest, scopes=frozenset({scope}))


def access(**settings: object) -> Policy:
    return Policy(StreamingConfig(**settings))  # type: ignore[arg-type]


class TestBucket:
    def test_a_burst_and_then_one_at_a_time(self, clock: Clock) -> None:
        bucket = Bucket(rate=2, burst=3)
        assert [bucket.take() for _ in range(3)] == [0, 0, 0]
        assert bucket.take() == pytest.approx(0.5)
        clock.advance(0.51)
        assert bucket.take() == 0
        assert bucket.take() > 0

    def test_what_is_not_used_is_saved_up_to_the_burst_and_no_further(self, clock: Clock) -> None:
        bucket = Bucket(rate=1, burst=2)
        clock.advance(1_000)
        assert [bucket.take() == 0 for _ in range(3)] == [True, True, False]

    def test_no_rate_is_no_limit(self, clock: Clock) -> None:
        assert clock.now
        bucket = Bucket(rate=0, burst=0)
        assert all(bucket.take() == 0 for _ in range(1_000))

    def test_asking_too_early_does_not_push_the_time_away(self, clock: Clock) -> None:
        bucket = Bucket(rate=1, burst=1)
        bucket.take()
        for _ in range(9):
            clock.advance(0.1)
            assert bucket.take() > 0
        clock.advance(0.11)
        assert bucket.take() == 0

    @given(rate=st.integers(1, 50), pauses=st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
    def test_never_more_than_rate_and_burst_allow(self, rate: int, pauses: list[float]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            clock = Clock()
            patch.setattr(policy_module, "time", clock)
            patch.setattr(rates_module, "time", clock)
            bucket = Bucket(rate, 2 * rate)
            taken = 0
            for pause in pauses:
                clock.advance(pause)
                taken += bucket.take() == 0
            assert taken <= 2 * rate + (clock.now - 1000) * rate + 1e-6

    def test_the_names_not_used_for_longest_are_forgotten(self) -> None:
        buckets = Buckets(rate=1, burst=1)
        kept = buckets.get("kept")
        for number in range(rates_module._BUCKETS + 5):
            buckets.get(str(number))
            buckets.get("kept")
        assert buckets.get("kept") is kept
        assert len(buckets._buckets) == rates_module._BUCKETS


class TestOpenAccess:
    def test_without_keys_whoever_comes_may_do_everything(self) -> None:
        open_doors = access()
        assert open_doors.open
        client = open_doors.client(None, "10.0.0.1", "Bearer theirs")
        assert (client.owner, client.scopes) == ("", SCOPES)
        assert client.authorization == "Bearer theirs", "it is the gateway's"

    def test_commands_are_counted_by_address(self, clock: Clock) -> None:
        assert clock.now
        open_doors = access(commands_per_second=1)
        one, same, other = (
            open_doors.client(None, address) for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2")
        )
        one.take_command()
        same.take_command()
        with pytest.raises(TooMany, match="Too many commands") as caught:
            one.take_command()
        assert caught.value.retry_after == pytest.approx(1)
        other.take_command()


class TestKeys:
    def test_a_key_is_known_by_its_secret(self) -> None:
        one, other = key("one", "s1"), key("other", "s2")
        closed = access(api_keys=[one, other])
        assert not closed.open
        assert closed.key_of("s1") == one
        assert closed.key_of("s2") == other

    @pytest.mark.parametrize("token", ["", "s3", "S1", "s1 ", "one", "\udcff", "x" * 100_000])
    def test_anything_else_is_no_key(self, token: str) -> None:
        with pytest.raises(Unauthorized, match="not known") as caught:
            access(api_keys=[key("one", "s1")]).key_of(token)
        assert caught.value.code == "invalid_api_key"

    def test_a_hash_in_capitals_is_the_same_hash(self) -> None:
        digest = hashlib.sha256(b"s1").hexdigest().upper()
        given_so = ApiKey(name="one", sha256=digest, scopes=frozenset({"chat"}))
        assert access(api_keys=[given_so]).key_of("s1").name == "one"

    def test_a_client_has_its_keys_scopes_and_no_others(self) -> None:
        closed = access(api_keys=[key("one", "s1", "watch")])
        client = closed.client(closed.key_of("s1"), "10.0.0.1", "Bearer s1")
        client.require("watch")
        with pytest.raises(Forbidden, match="lacks the scope chat"):
            client.require("chat")

    def test_a_key_of_ours_is_never_sent_to_the_gateway(self) -> None:
        closed = access(api_keys=[key("one", "s1")])
        assert closed.client(closed.key_of("s1"), "10.0.0.1", "Bearer s1").authorization is None

    def test_no_secret_is_shown(self) -> None:
        client = Client("", SCOPES, "10.0.0.1", Bucket(0, 0), "Bearer secret")
        assert "secret" not in repr(client)
        assert hashlib.sha256(b"s1").hexdigest() not in repr(key("one", "s1"))

    def test_a_key_named_like_an_address_shares_no_bucket_with_it(self, clock: Clock) -> None:
        assert clock.now
        closed = access(api_keys=[key("ten", "s1")], commands_per_second=1)
        assert closed.client(closed.key_of("s1"), "ten").commands is not (
            closed.client(None, "ten").commands
        )

    def test_the_addresses_of_one_ipv6_customer_share_one_bucket(self) -> None:
        opened = access()
        first, same, other = (
            opened.client(None, address)
            for address in ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1")
        )
        assert first.commands is same.commands
        assert first.name == same.name
        assert first.commands is not other.commands
        assert first.name != other.name


class TestTickets:
    def test_a_ticket_is_its_clients_key_once(self) -> None:
        closed = access(api_keys=[key("one", "s1"), key("other", "s2")])
        ticket = closed.issue_ticket(closed.client(closed.key_of("s2"), "10.0.0.1"))
        redeemed = closed.redeem(ticket)
        assert redeemed is not None
        assert redeemed.name == "other"
        with pytest.raises(Unauthorized, match="get a new one"):
            closed.redeem(ticket)

    def test_a_ticket_is_good_for_half_a_minute(self, clock: Clock) -> None:
        closed = access(api_keys=[key("one", "s1")])
        client = closed.client(closed.key_of("s1"), "10.0.0.1")
        in_time, late = closed.issue_ticket(client), closed.issue_ticket(client)
        clock.advance(TICKET_SECONDS)
        closed.redeem(in_time)
        clock.advance(0.01)
        with pytest.raises(Unauthorized):
            closed.redeem(late)

    @pytest.mark.parametrize("ticket", ["", "x", "\udcff", "a" * 10_000])
    def test_a_made_up_ticket_is_none(self, ticket: str) -> None:
        with pytest.raises(Unauthorized) as caught:
            access(api_keys=[key("one", "s1")]).redeem(ticket)
        assert caught.value.code == "invalid_ticket"

    def test_tickets_do_not_pile_up(self) -> None:
        closed = access(api_keys=[key("one", "s1")], commands_per_second=0)
        client = closed.client(closed.key_of("s1"), "10.0.0.1")
        for _ in range(policy_module._TICKETS + 5):
            last = closed.issue_ticket(client)
        assert len(closed._tickets) == policy_module._TICKETS
        assert closed.redeem(last)

    def test_the_tickets_of_one_key_do_not_push_out_anothers(self) -> None:
        closed = access(api_keys=[key("one", "s1"), key("other", "s2")], commands_per_second=0)
        few, many = (closed.client(closed.key_of(secret), "10.0.0.1") for secret in ("s1", "s2"))
        first = closed.issue_ticket(few)
        for _ in range(policy_module._TICKETS + 5):
            closed.issue_ticket(many)
        redeemed = closed.redeem(first)
        assert redeemed is not None
        assert redeemed.name == "one"

    def test_a_ticket_buys_no_other(self) -> None:
        closed = access(api_keys=[key("one", "s1")])
        ticket = closed.issue_ticket(closed.client(closed.key_of("s1"), "10.0.0.1"))
        by_ticket = closed.client(closed.redeem(ticket), "10.0.0.1", by_ticket=True)
        with pytest.raises(Forbidden) as caught:
            closed.issue_ticket(by_ticket)
        assert caught.value.code == "ticket_by_ticket"


class TestHosts:
    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "127.0.0.1:9096", "192.168.1.7:80", "[::1]", "[::1]:9096", "[FE80::1]:1",
         "localhost", "localhost:9096", "LOCALHOST", "localhost.", socket.gethostname(),
         "api.example.org", "API.Example.ORG:443", "api.example.org.:443"],
    )  # fmt: skip
    def test_a_name_that_no_rebinding_can_bring_is_allowed(self, host: str) -> None:
        access(allowed_hosts=["api.example.org"]).check_host(host)

    @pytest.mark.parametrize(
        "host",
        ["", "evil.example", "evil.example:9096", "127.0.0.1.evil.example",
         "localhost.evil.example", "xlocalhost", "1.2.3", "127.1:80", "[::1%evil]", "[::1]evil",
         "0x7f000001", "2130706433", "api.example.org.evil", ":",
         "[", "[]", "[evil]", "localhost:80:80"],
    )  # fmt: skip
    def test_a_name_that_is_not_this_machines_is_refused(self, host: str) -> None:
        with pytest.raises(Forbidden, match="allowed_hosts"):
            access(allowed_hosts=["api.example.org"]).check_host(host)


class TestOrigins:
    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://localhost:9096", "localhost:9096"),
            ("http://LOCALHOST:9096", "localhost:9096"),
            ("http://127.0.0.1", "127.0.0.1"),
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("http://127.0.0.1:80", "127.0.0.1"),
            ("https://api.example.org", "api.example.org"),
            ("https://api.example.org", "api.example.org:443"),
            ("http://[::1]:9096", "[::1]:9096"),
            ("http://[::1]", "[::1]:80"),
            ("https://partner.example", "localhost:9096"),
            ("HTTPS://PARTNER.example", "localhost:9096"),
        ],
    )
    def test_the_same_origin_and_the_allowed_come_in(self, origin: str, host: str) -> None:
        access(allowed_origins=["https://partner.example"]).check_origin(origin, host)

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://evil.example", "localhost:9096"),
            ("http://localhost:9097", "localhost:9096"),
            ("http://localhost", "localhost:9096"),
            ("https://localhost", "localhost:80"),
            ("http://partner.example", "localhost:9096"),
            ("https://partner.example.evil", "localhost:9096"),
            ("null", "localhost"),
            ("", ""),
            ("null", ""),
            ("file://localhost", "localhost"),
            ("localhost", "localhost"),
            ("//localhost", "localhost"),
            ("http://localhost@evil.example", "localhost"),
            ("http://evil.example@localhost", "localhost"),
            ("http://[", "localhost"),
            ("http://[::1", "[::1"),
            ("chrome-extension://localhost", "localhost"),
        ],
    )
    def test_any_other_origin_is_refused(self, origin: str, host: str) -> None:
        with pytest.raises(Forbidden, match="allowed_origins"):
            access(allowed_origins=["https://partner.example"]).check_origin(origin, host)

    @pytest.mark.parametrize(
        ("own", "peer", "forwarded", "taken"),
        [
            ("http", "10.0.0.1", "", {"http", "https"}),  # somebody may speak TLS in front of us
            ("https", "10.0.0.1", "", {"https"}),
            ("https", "10.0.0.1", "http", {"https"}),  # not trusted: its word is nothing
            ("http", "10.0.0.1", "https", {"http", "https"}),
            ("http", "10.9.0.1", "https", {"https"}),
            ("http", "10.9.0.1", "http", {"http"}),
            ("https", "10.9.0.1", "http", {"http"}),
            ("http", "10.9.0.1", "http, HTTPS", {"https"}),  # the last word is the proxy's
            ("http", "::ffff:10.9.0.1", "https", {"https"}),
            ("http", "10.9.0.1", "nonsense", {"http", "https"}),
        ],
    )
    def test_a_page_that_came_another_way_is_another(
        self, own: str, peer: str, forwarded: str, taken: set[str]
    ) -> None:
        policy = access(trusted_proxies=["10.9.0.0/16"])
        found = policy.scheme(peer, own, forwarded)
        for scheme in ("http", "https"):
            if scheme in taken:
                policy.check_origin(f"{scheme}://localhost", "localhost", found)
            else:
                with pytest.raises(Forbidden):
                    policy.check_origin(f"{scheme}://localhost", "localhost", found)

    @given(st.text(max_size=30), st.text(max_size=30))
    def test_hostile_text_is_refused_and_never_an_error(self, origin: str, host: str) -> None:
        with pytest.raises(Forbidden):
            access().check_origin("x" + origin, host)


class TestAddresses:
    @pytest.mark.parametrize(
        ("peer", "forwarded", "address"),
        [
            ("9.9.9.9", ["1.2.3.4"], "9.9.9.9"),
            ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
            ("::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", ["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", ["6.6.6.6", "1.2.3.4", "10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", ["10.0.0.3", "10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", ["evil"], "10.0.0.1"),
            ("10.0.0.1", ["fe80::1%evil"], "10.0.0.1"),
            ("10.0.0.1", ["1.2.3.4", "evil"], "10.0.0.1"),
            ("10.0.0.1", ["", "1.2.3.4", ""], "10.0.0.1"),
            ("10.0.0.1", [], "10.0.0.1"),
            ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
            ("", ["1.2.3.4"], ""),
        ],
    )
    def test_only_trusted_proxies_are_believed(
        self, peer: str, forwarded: list[str], address: str
    ) -> None:
        assert access(trusted_proxies=["10.0.0.0/8"]).address(peer, forwarded) == address

    def test_without_trusted_proxies_nobody_is(self) -> None:
        assert access().address("127.0.0.1", ["1.2.3.4"]) == "127.0.0.1"


class TestNetworks:
    @pytest.mark.parametrize(
        ("address", "network"),
        [
            ("192.168.1.7", "192.168.1.7"),
            ("::ffff:192.168.1.7", "192.168.1.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("", ""),
        ],
    )
    def test_what_one_customer_has_counts_as_one(self, address: str, network: str) -> None:
        assert access().client(None, address).network == network


class TestConnectionRate:
    def test_an_address_has_so_many_connections_a_minute(self, clock: Clock) -> None:
        busy = access(connections_per_minute=60)
        client = busy.client(None, "10.0.0.1")
        for _ in range(10):
            busy.take_connection(client)
        with pytest.raises(TooMany) as caught:
            busy.take_connection(client)
        assert caught.value.retry_after == pytest.approx(1)
        busy.take_connection(busy.client(None, "10.0.0.2"))
        clock.advance(1.01)
        busy.take_connection(client)

    def test_connections_a_minute_have_no_limit_by_default(self) -> None:
        idle = access()
        client = idle.client(None, "10.0.0.1")
        for _ in range(1_000):
            idle.take_connection(client)
