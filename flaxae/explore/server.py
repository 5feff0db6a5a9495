"""The explorer's server: loopback by default, its own origins only, else a password."""

import ipaddress
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flaxae.config.locate import user_path
from flaxae.errors import ConfigError, require
from flaxae.explore.backend import Explorer, check_explorer

TITLE = "Latent-space explorer"
TEMPLATES = Path(__file__).parent / "templates"


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int, password_file: str) -> str:
    """Check the address before anything slow is done.

    Args:
        host: address to listen on.
        port: port; 0: any free port.
        password_file: file whose first line is the password; "": no password.

    Returns:
        The password; "" if there is none.

    Raises:
        ConfigError: if the address is not loopback and there is no password, or the port is in use.
    """
    require(0 <= port < 65536, f"--port={port} must be 0 to 65535")
    if not is_loopback(host):
        require(
            bool(password_file),
            f"--host={host} can be reached from other machines: give --password-file=FILE too "
            "(its first line is the password)",
        )
    password = read_password(password_file) if password_file else ""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except (OSError, OverflowError) as e:
            reason = getattr(e, "strerror", None) or e
            raise ConfigError(
                f"cannot listen on {host}:{port} ({reason}): give another --port, or --port=0 for "
                "any free port"
            ) from None
    return password


def read_password(path: str) -> str:
    """Return the first line of a file. Raises ConfigError if it is missing or too short."""
    try:
        lines = user_path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"--password-file={path} cannot be read: {getattr(e, 'strerror', None) or e}"
        ) from None
    password = lines[0].strip() if lines else ""
    require(
        len(password) >= 8, f"--password-file={path}: its first line needs at least 8 characters"
    )
    return password


def allowed_origins(host: str, port: int, more: Sequence[str] = ()) -> list[str]:
    """Return the addresses whose pages may open a websocket to this server."""
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
    """Serve the app.

    Args:
        explorer: the model and its texts; it is warmed up here.
        port: port; 0: any free port.
        host: address to listen on; an address other than loopback needs a password file.
        password_file: file whose first line is the password; "": no password.
        allow_origin: further addresses (HOST:PORT) that pages may be loaded from, for a proxy.
        show: open the browser.
        block: serve until Ctrl-C.
        ready: called with the server's address.

    Returns:
        None; if `block` is false, the server, which runs as soon as its `io_loop` is started.

    Raises:
        ConfigError: if it is not given an `Explorer`, or the address cannot be used.
    """
    check_explorer(explorer)
    password = check_address(host, port, password_file)
    from flaxae.explore.page import AppState, Page, pn

    if not port:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
            s.bind((host, 0))
            port = s.getsockname()[1]
    pn.extension(inline=True)
    explorer.warm_up()
    state = AppState(explorer)

    def page() -> Any:
        query = {k: v[-1].decode("utf-8", "replace") for k, v in pn.state.session_args.items()}
        template: Any = pn.Template((TEMPLATES / "page.html").read_text())
        template.add_panel("explorer", Page(state, query, query.get("theme") == "dark").layout)
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
        {"/": page},
        address=host,
        port=port,
        websocket_origin=allowed_origins(host, port, allow_origin),
        show=show,
        start=False,
        title=TITLE,
        verbose=False,
        threaded=False,
        admin=False,
        use_xheaders=False,
        **security,
    )
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
    server.start()
    if not block:
        return server
    try:
        server.io_loop.start()
    finally:
        state.close()
    return None
