"""Variables of the environment by which no server can be reached: each is named, and nothing else is refused."""

from pathlib import Path

import certifi
import pytest
import requests

from crossflow.core.errors import CrossflowError
from crossflow.fetch import environment
from crossflow.fetch.download import new_session
from crossflow.fetch.environment import FILES, HUB, advice, faults


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the person who runs the tests, no login, and no package for SOCKS proxies."""
    for kind in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{kind}_proxy", raising=False)
        monkeypatch.delenv(f"{kind}_proxy".upper(), raising=False)
    for name in (*FILES.certificates, *HUB.certificates, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(environment, "find_spec", lambda name: None)


def test_an_environment_without_any_variable_has_no_fault() -> None:
    assert faults(FILES, HUB) == []


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"ALL_PROXY": "socks5://me:secret@127.0.0.1:1080"}, ["ALL_PROXY names a SOCKS proxy"]),
        ({"https_proxy": "socks5h://127.0.0.1:1080"}, ["https_proxy names a SOCKS proxy"]),
        ({"HTTP_PROXY": "ftp://127.0.0.1:21"}, ["HTTP_PROXY names a proxy of the kind 'ftp'"]),
        ({"HTTPS_PROXY": "http://127.0.0.1:3128", "http_proxy": "127.0.0.1:3128"}, []),
        ({"ALL_PROXY": "socks5://127.0.0.1:1080", "NO_PROXY": "*"}, []),
    ],
)
@pytest.mark.parametrize("client", [FILES, HUB])
def test_a_proxy_that_can_not_be_used_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, client: environment.Client, variables: dict[str, str], named: list[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = faults(client)
    assert [fault[: len(start)] for fault, start in zip(found, named, strict=True)] == named
    assert "secret" not in "".join(found)
    if "SOCKS" in "".join(named):
        assert f"`pip install {client.package}`" in found[0]
        monkeypatch.setattr(environment, "find_spec", lambda name: object() if name == client.socks else None)
        assert faults(client) == []


def test_a_proxy_for_all_is_asked_by_requests_only_where_none_is_set_for_the_scheme(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:3128")
    assert faults(FILES) == []
    assert faults(HUB)  # its client reads all of them before the first request


@pytest.mark.parametrize("client", [FILES, HUB])
def test_certificates_that_are_absent_or_none_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, client: environment.Client
) -> None:
    name, second = client.certificates
    (tmp_path / "notes.pem").write_text("no certificate")
    for value, said in (
        (tmp_path / "absent.pem", "which does not exist"),
        (tmp_path / "notes.pem", "which holds no certificates"),
    ):
        monkeypatch.setenv(name, str(value))
        (found,) = faults(client)
        assert found.startswith(f"{name} names {value}, {said}")
    monkeypatch.setenv(second, "/absent")
    monkeypatch.setenv(name, certifi.where())
    assert faults(client) == []  # the first that is set counts
    monkeypatch.delenv(name)
    assert faults(client)[0].startswith(f"{second} names /absent")


@pytest.mark.parametrize("token", ["hf_ä", "hf_a b", "hf_“quoted”"])
def test_a_token_that_is_none_is_named_by_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str
) -> None:
    (tmp_path / "token").write_text(token)
    (found,) = faults(HUB)
    assert found.startswith(f"{tmp_path / 'token'} holds spaces or letters outside ASCII")
    monkeypatch.setenv("HF_TOKEN", "hf_good\n")
    assert faults(HUB) == []
    monkeypatch.setenv("HF_TOKEN", token)
    assert faults(HUB)[0].startswith("HF_TOKEN holds")
    assert faults(FILES) == []


def test_no_session_begins_in_an_environment_that_can_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(CrossflowError, match="ALL_PROXY names a SOCKS proxy.*or unset ALL_PROXY"):
        new_session()


def test_a_server_that_is_not_reached_leads_to_the_proxy_or_the_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    url, refused = "https://example.org/a", requests.ConnectionError("refused")
    assert advice(url, refused, FILES) == "check the network"
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert advice(url, refused, FILES) == "check the network, and the proxy that HTTPS_PROXY names"
    assert advice("http://example.org/a", refused, FILES) == "check the network"
    untrusted = requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    assert "in SSL_CERT_FILE" in advice(url, untrusted, HUB)
