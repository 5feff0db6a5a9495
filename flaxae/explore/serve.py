"""The server: loopback, its own origins only, a password where others may reach it."""

import ipaddress
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flaxae.errors import ConfigError, require
from flaxae.explore.backend import Explorer

TITLE = "Latent-space explorer"
TEMPLATES = Path(__file__).parent / "templates"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int, password_file: str) -> str:
    """The password, after all that can be wrong with an address was asked.

    Raises:
        ConfigError: another address than loopback without a password, a port in use, ...
    """
    require(0 <= port < 65536, f"--port={port} must be 0 to 65535")
    if not is_loopback(host):
        require(
            bool(password_file),
            f"--host={host} can be reached by others: give --password-file=FILE too (its first "
            "line is the password)",
        )
    password = read_password(password_file) if password_file else ""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except (OSError, OverflowError) as e:
            reason = getattr(e, "strerror", None) or e
            raise ConfigError(
                f"cannot listen on {host}:{port} ({reason}): give another --port, or 0 for any "
                "that is free"
            ) from None
    return password


def read_password(path: str) -> str:
    """The first line of a file. Raises ConfigError where it is missing or too short."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"--password-file={path} cannot be read: {getattr(e, 'strerror', None) or e}"
        ) from None
    password = lines[0].strip() if lines else ""
    require(len(password) >= 8, f"--password-file={path}: its first line needs 8 characters")
    return password


def origins(host: str, port: int, more: Sequence[str] = ()) -> list[str]:
    """Addresses whose pages may talk to this server."""
    names = ["127.0.0.1", "localhost", host]
    if host in ("0.0.0.0", "::"):
        names += [socket.gethostname(), socket.getfqdn()]
    out = [
        f"[{n}]:{port}" if ":" in n else f"{n}:{port}" for n in names if n not in ("0.0.0.0", "::")
    ]
    return list(dict.fromkeys([*out, *more]))


def serve(
    explorer: Explorer,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    password_file: str = "",
    allow_origin: Sequence[str] = (),
    show: bool = False,
    block: bool = True,
    ready: Callable[[str], None] = print,
) -> Any:
    """Serves the app.

    Args:
        explorer: warmed up here.
        port: 0: any that is free.
        host: an address other than loopback needs a password file.
        password_file: its first line is asked for, whatever the name.
        allow_origin: HOST:PORT that pages may come from beside the server's own, behind a proxy.
        show: opens the browser.
        block: until Ctrl-C; else returns the server, which runs when its io_loop does.
        ready: is told the address.

    Raises:
        ConfigError: the address cannot be used.
    """
    password = check_address(host, port, password_file)
    from flaxae.explore.app import Hub, Page, pn

    if not port:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
            s.bind((host, 0))
            port = s.getsockname()[1]
    pn.extension(inline=True)
    explorer.warm_up(lambda text: None)
    hub = Hub(explorer)

    def page() -> Any:
        query = {k: v[-1].decode("utf-8", "replace") for k, v in pn.state.session_args.items()}
        template: Any = pn.Template((TEMPLATES / "page.html").read_text())
        template.add_panel("explorer", Page(hub, query, query.get("theme") == "dark").layout)
        template.title, template.location = TITLE, True
        return template

    security: dict[str, Any] = {}
    if password:
        security = {
            "basic_auth": password,
            "cookie_secret": secrets.token_hex(32),
            "login_template": str(TEMPLATES / "login.html"),
        }
    server: Any = pn.serve(
        {"/": page}, address=host, port=port, websocket_origin=origins(host, port, allow_origin),
        show=show, start=False, title=TITLE, verbose=False, threaded=False, admin=False,
        use_xheaders=False, **security,
    )  # fmt: skip
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
    server.start()
    if not block:
        return server
    try:
        server.io_loop.start()
    finally:
        hub.close()
    return None
