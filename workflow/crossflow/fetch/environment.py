"""Variables of the environment by which servers are reached: those that cannot work are named before any is asked.

Files are fetched by `requests`, repositories on the hub by its own client, which is built on httpx; each reads
variables of its own.
"""

import os
import re
import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from huggingface_hub import constants, get_token

from crossflow.core.errors import CrossflowError


class Client(NamedTuple):
    """A library that fetches.

    Attributes:
        certificates: Variables that name the certificates that it trusts; the first that is set counts.
        socks: The module that it needs for SOCKS proxies.
        package: The package that holds this module.
        is_hub: It reads all proxies before the first request, and sends the token of the Hugging Face hub.
    """

    certificates: tuple[str, ...]
    socks: str
    package: str
    is_hub: bool = False


FILES = Client(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), "socks", "pysocks")
HUB = Client(("SSL_CERT_FILE", "SSL_CERT_DIR"), "socksio", "socksio", is_hub=True)
_SCHEMES = ("http", "https", "socks5", "socks5h")


def _proxies() -> dict[str, str]:
    """Scheme, or ``all`` -> its proxy."""
    found = getproxies_environment()
    return {} if "*" in found.get("no", "") else {key: found[key] for key in ("http", "https", "all") if key in found}


def _variable(key: str) -> str:
    """The variable that names a proxy; lower case comes first."""
    name = f"{key}_proxy"
    return name if os.environ.get(name) else name.upper()


def _faulty_proxies(client: Client) -> Iterator[str]:
    proxies = _proxies()
    hides = not client.is_hub and {"http", "https"} <= proxies.keys()
    for key, proxy in proxies.items():
        name = _variable(key)
        # Never the value itself, which may hold a password.
        scheme, mark, _ = proxy.partition("://")
        if not mark or (key == "all" and hides):
            continue
        if scheme.lower() not in _SCHEMES:
            yield f"{name} names a proxy of the kind {scheme!r}, known are {', '.join(_SCHEMES)}: correct or unset it"
        elif scheme.lower().startswith("socks") and find_spec(client.socks) is None:
            yield f"{name} names a SOCKS proxy, which needs `pip install {client.package}`: install it, or unset {name}"


def _faulty_certificates(client: Client) -> Iterator[str]:
    name = next((name for name in client.certificates if os.environ.get(name)), None)
    if name is not None and not Path(value := os.environ[name]).is_dir():
        try:
            ssl.create_default_context(cafile=value)
        except FileNotFoundError:
            yield f"{name} names {value}, which does not exist: name your certificates, or unset it"
        except (OSError, ValueError) as error:
            yield f"{name} names {value}, which holds no certificates ({error}): name your certificates, or unset it"


def token_place() -> str:
    """Where the hub's token comes from: a variable, or the file of `hf auth login`."""
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    return next((name for name in names if os.environ.get(name)), constants.HF_TOKEN_PATH)


def _faulty_token() -> Iterator[str]:
    if not re.fullmatch("[!-~]*", get_token() or ""):
        yield f"{token_place()} holds spaces or letters outside ASCII, which no token has: correct or remove it"


def faults(*clients: Client) -> list[str]:
    """What is wrong with the environment for these clients, and what to do, in half a sentence each."""
    found: list[str] = []
    for client in clients:
        found += [*_faulty_proxies(client), *_faulty_certificates(client)]
        found += _faulty_token() if client.is_hub else ()
    return list(dict.fromkeys(found))


def require_sound(client: Client) -> None:
    """Refuse an environment in which a client can reach no server.

    Raises:
        CrossflowError: a variable cannot work.
    """
    if found := faults(client):
        raise CrossflowError(f"{'; '.join(found)}.")


def advice(url: str, error: Exception, client: Client) -> str:
    """What to look at after a server could not be reached."""
    if "CERTIFICATE_VERIFY_FAILED" in repr(error):
        return f"its certificate is not trusted, name those of your network in {client.certificates[0]}"
    proxies, scheme = _proxies(), urlsplit(url).scheme
    used = next((key for key in (scheme, "all") if key in proxies), None)
    return f"check the network, and the proxy that {_variable(used)} names" if used else "check the network"
