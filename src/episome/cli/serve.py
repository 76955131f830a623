"""``episome serve``: the local page."""

from __future__ import annotations

import ipaddress
import secrets
from pathlib import Path
from typing import Any

import click

from episome.cli._command import Outcome, command_options, examples, run_command, state_of
from episome.errors import MissingDependencyError, UsageError

__all__ = ["command"]


@click.command(
    "serve",
    epilog=examples(
        "episome serve --models my-models",
        "episome serve --port 8080",
        "episome serve --host 0.0.0.0 --token a-long-secret --allow-host lab-server",
    ),
)
@click.option(
    "--models",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Model folder, or folder of them, to choose from; may be repeated.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8471, show_default=True,
    help="Port; 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--token",
    envvar="EPISOME_TOKEN",
    help="Secret of the address; default a random one, for this machine alone.",
)
@click.option("--public", is_flag=True, help="Let everybody in who reaches the port.")
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="Name by which others reach this machine."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of uploads, queue and results; default in the cache folder.",
)
@click.option(
    "--paths/--no-paths",
    default=None,
    help="Read files by their path; default only for this machine alone.",
)
@click.option(
    "--max-upload", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
    metavar="GIB", help="Largest upload.",
)  # fmt: skip
@click.option("--max-queue", type=click.IntRange(1), default=50, show_default=True, help="Jobs.")
@click.option(
    "--min-free", type=click.FloatRange(0), default=5.0, show_default=True, metavar="GIB",
    help="Disk that stays free.",
)  # fmt: skip
@click.option(
    "--keep", type=click.FloatRange(0, min_open=True), default=24.0, show_default=True,
    metavar="HOURS", help="Hours after which files and results are deleted.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="At once.")
@click.option(
    "--job-memory", type=click.FloatRange(0, min_open=True), metavar="GIB",
    help="Memory of one job; default that of the machine.",
)  # fmt: skip
@click.option(
    "--job-hours", type=click.FloatRange(0, min_open=True), default=4.0, show_default=True,
    help="Hours of one job.",
)  # fmt: skip
@click.option(
    "--device", default="cpu", show_default=True, help="Where jobs run: cpu, auto, cuda, mps."
)
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Serve a page on which cells are checked, annotated and trained on in a browser.

    It listens on this machine alone, and the address that is printed holds a secret. Nothing
    leaves the machine. Ctrl-C ends it; jobs that run are begun again by the next start.
    """
    run_command(ctx, "serve", lambda: _serve(ctx, options))


def _serve(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    alone = _is_loopback(options["host"])
    if not alone and options["token"] is None and not options["public"]:
        raise UsageError(
            "E-W12",
            f"others than this machine could open the page ({options['host']})",
            why="whoever reaches it uses this machine, and reads what --models names",
            fix="give --token SECRET, or --public to let everybody in",
        )
    try:
        from episome.web import ServeSettings, make_server
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "E-P02",
            f"the package {error.name!r} is not installed",
            why="the page is served by it",
            fix='pip install "episome[serve]"',
        ) from error
    from episome import settings as session
    from episome.cli._ui import note
    from episome.resources import memory_limit

    if not alone:
        note(f"warning: the page can be reached from other machines ({options['host']})")
    token = None if options["public"] else options["token"] or secrets.token_urlsafe(24)
    listening = _socket(options["host"], options["port"])
    port = listening.getsockname()[1]
    paths = options["paths"]
    memory = memory_limit()
    if options["job_memory"] is not None:
        memory = int(options["job_memory"] * (1 << 30))
    settings = ServeSettings(
        state=options["state"] or session.cache_folder("page"),
        models=tuple(options["models"]),
        token=token,
        port=port,
        hosts=_hosts(options, alone=alone),
        any_address=not alone,
        local=(alone and not options["public"]) if paths is None else paths,
        max_upload=int(options["max_upload"] * (1 << 30)),
        max_queue=options["max_queue"],
        min_free=int(options["min_free"] * (1 << 30)),
        keep=options["keep"] * 3600,
        workers=options["jobs"],
        wall=options["job_hours"] * 3600,
        device=options["device"],
        memory=memory,
    )
    server = make_server(settings, host=options["host"], port=port)
    address = f"http://{_shown(options['host'])}:{port}/"
    address += "" if token is None else f"?token={token}"
    state = state_of(ctx)
    if state.stdout is not None and not state.json:
        state.stdout.write(f"{address}\n")
        state.stdout.flush()
    note(f"open {address} in a browser; Ctrl-C ends it")
    server.run(sockets=[listening])
    return Outcome(data={"address": address})


def _hosts(options: dict[str, Any], *, alone: bool) -> frozenset[str]:
    """Return the names that requests may be addressed to."""
    import socket

    names = {"127.0.0.1", "localhost", "[::1]", *options["allow_host"]}
    if not alone:
        names |= {options["host"], socket.gethostname()}
    return frozenset(n.lower() for n in names)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _socket(host: str, port: int) -> Any:
    """Return a socket that listens; taken before anything is made, so that a taken port is said.

    Raises
    ------
    UsageError
        The port is taken, or the address is none of this machine (E-W16).
    """
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host.strip("[]"), port))
    except OSError as error:
        found.close()
        raise UsageError(
            "E-W16",
            f"the page cannot listen on {host}, port {port}",
            why=str(error.strerror or error),
            fix="choose another with --port, or 0 for any that is free",
        ) from error
    return found
