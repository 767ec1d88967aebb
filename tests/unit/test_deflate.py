"""permessage-deflate: what is agreed to, and that `websockets` agrees with it. RFC 7692."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.headers import parse_extension

from streaming_api.wire.deflate import Deflate, negotiate
from streaming_api.wire.framing import DEFLATED_WEBSOCKET

AGREED = "permessage-deflate; client_no_context_takeover"

PARAMETERS = st.lists(
    st.sampled_from(
        ["server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits",
         "client_max_window_bits=10", "client_max_window_bits=8", "server_max_window_bits=9",
         'server_max_window_bits="15"', "server_max_window_bits=8", "server_max_window_bits=16",
         "server_max_window_bits", "server_no_context_takeover=1", "x=y", ""],
    ),
    max_size=4,
)  # fmt: skip


class TestWhatIsAgreed:
    @pytest.mark.parametrize(
        ("offer", "bits", "header"),
        [
            ("permessage-deflate", 15, AGREED),
            ("permessage-deflate; client_max_window_bits", 15, AGREED),
            ("permessage-deflate;client_max_window_bits=8", 15, AGREED),
            ("permessage-deflate; server_no_context_takeover", 15,
             AGREED + "; server_no_context_takeover"),
            ("permessage-deflate; server_max_window_bits=10", 10,
             AGREED + "; server_max_window_bits=10"),
            ('permessage-deflate; server_max_window_bits="12"', 12,
             AGREED + "; server_max_window_bits=12"),
            ("x-webkit-deflate-frame, permessage-deflate", 15, AGREED),
            ("permessage-deflate; unknown, permessage-deflate; client_max_window_bits", 15, AGREED),
            ("permessage-deflate; server_max_window_bits=8, permessage-deflate", 15, AGREED),
        ],
    )  # fmt: skip
    def test_the_first_offer_that_can_be_met_is_agreed_to(
        self, offer: str, bits: int, header: str
    ) -> None:
        takeover = "server_no_context_takeover" not in offer
        assert negotiate(offer) == Deflate(bits, takeover, header)

    @pytest.mark.parametrize(
        "offer",
        ["", ",", ";", "permessage-bzip2", "permessage-deflate; server_max_window_bits",
         "permessage-deflate; server_max_window_bits=8",
         "permessage-deflate; server_max_window_bits=16",
         "permessage-deflate; server_max_window_bits=015",
         "permessage-deflate; server_max_window_bits=1\u0660",
         "permessage-deflate; server_max_window_bits=100",
         "permessage-deflate; client_max_window_bits=7",
         "permessage-deflate; server_no_context_takeover=true",
         "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
         "permessage-deflate; colour=blue", "Permessage-deflate2"],
    )  # fmt: skip
    def test_what_cannot_be_met_goes_without(self, offer: str) -> None:
        assert negotiate(offer) is None


class TestAnyOffer:
    @given(st.text())
    def test_hostile_text_is_agreed_to_or_not_and_never_an_error(self, offer: str) -> None:
        agreed = negotiate(offer)
        assert agreed is None or agreed.server_bits in DEFLATED_WEBSOCKET

    @given(st.lists(PARAMETERS, min_size=1, max_size=3))
    def test_an_answer_names_only_what_the_standard_has(self, offers: list[list[str]]) -> None:
        text = ", ".join("; ".join(["permessage-deflate", *offer]) for offer in offers)
        agreed = negotiate(text)
        if agreed is None:
            return
        ((name, parameters),) = parse_extension(agreed.header)
        assert name == "permessage-deflate"
        names = [parameter for parameter, _ in parameters]
        assert len(names) == len(set(names))
        assert "client_no_context_takeover" in names
        assert ("server_no_context_takeover" in names) is not agreed.server_takeover
        assert set(names) <= {
            "server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits"
        }  # fmt: skip

    @pytest.mark.parametrize("server_bits", [None, *range(9, 16)])
    @pytest.mark.parametrize("client_bits", [None, True, *range(9, 16)])
    def test_a_websockets_client_accepts_the_answer_to_its_own_offer(
        self, server_bits: int | None, client_bits: int | None
    ) -> None:
        factory = ClientPerMessageDeflateFactory(
            server_max_window_bits=server_bits, client_max_window_bits=client_bits
        )
        offer = "; ".join(
            [factory.name]
            + [name if value is None else f"{name}={value}"
               for name, value in factory.get_request_params()]
        )  # fmt: skip
        agreed = negotiate(offer)
        assert agreed is not None
        ((_, parameters),) = parse_extension(agreed.header)
        extension = factory.process_response_params(parameters, [])
        assert extension.local_no_context_takeover
        assert not extension.remote_no_context_takeover
        assert extension.remote_max_window_bits >= agreed.server_bits
