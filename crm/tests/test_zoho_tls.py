"""The client over TLS, as it speaks with the real CRM: trust, deadlines, kept connections."""

from __future__ import annotations

import ssl
import time as real_time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crm.tests.odd_server import Odd, OddServer, client_of, page
from crm.zoho.errors import Unreachable

GOOD = page([{"id": "1"}])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd server")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return file


def server_of(certificate: Path, *script: Odd) -> OddServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return OddServer(list(script), tls=context)


def read(client: Any) -> int:
    return len(client.by_ids("Deals", [1], ["Deal_Name"]).records)


def test_a_trusted_server_is_read_over_one_connection(certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with server_of(certificate, GOOD) as server:
        client = client_of(server)
        assert [read(client) for _ in range(3)] == [1, 1, 1]
        assert len(server._open) == 1


def test_row_35_a_certificate_nobody_vouches_for_is_refused(certificate):
    with server_of(certificate, GOOD) as server:
        with pytest.raises(Unreachable, match="certificate is not trusted") as caught:
            read(client_of(server, purpose="check"))
        assert caught.value.was_sent is False
        assert server.asked == []
        assert server.minted == []


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nContent-Ty", GOOD.start()])
def test_row_36_a_slow_drip_over_tls_ends_by_the_deadline(certificate, monkeypatch, start):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    drip = Odd(raw=start, pieces=[b"x"] * 100, pause_s=0.05)
    with server_of(certificate, drip) as server:
        patience = {"read_s": 0.3, "exchange_s": 0.5, "tries": 1}
        started = real_time.monotonic()
        with pytest.raises(Unreachable, match="no whole answer"):
            read(client_of(server, patience=patience))
        assert real_time.monotonic() - started < 1.2


def test_row_35_a_server_that_never_shakes_hands(certificate):
    silent = OddServer([Odd(raw=b"", pieces=[b""], pause_s=1)])
    with silent:
        client = client_of(
            silent.url.replace("http:", "https:"), patience={"connect_s": 0.2, "tries": 1}
        )
        started = real_time.monotonic()
        with pytest.raises(Unreachable):
            read(client)
        assert real_time.monotonic() - started < 1


def test_row_34_an_answer_cut_inside_tls_is_asked_again(certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    whole = GOOD.start() + GOOD.body
    with server_of(certificate, Odd(raw=whole[:-20], then="close"), GOOD) as server:
        client = client_of(server)
        assert read(client) == 1
        assert client.calls == 2
