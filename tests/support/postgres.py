"""A PostgreSQL server of its own for a test module, and a database for each test."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

PASSWORD = "Pelican-91x"


@dataclass
class Server:
    """A PostgreSQL cluster of its own: on this machine only, with a password, thrown away at the end."""

    programs: Path
    folder: Path
    user: str
    port: int

    def run(self, program: str, *arguments: str) -> None:
        # PostgreSQL refuses to run as root.
        identity: dict[str, Any] = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid}
        other = identity | {"extra_groups": []} if os.geteuid() == 0 else {}
        with (self.folder / "programs.log").open("ab") as log:
            subprocess.run(
                [self.programs / program, *arguments],
                check=True,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=60,
                **other,
            )

    def make(self) -> None:
        (self.folder / "password").write_text(PASSWORD, encoding="utf-8")
        auth = ["--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}", "--username=team"]
        self.run("initdb", "-D", self.data, "--encoding=UTF8", "--locale=C", "--no-sync", *auth)

    def start(self) -> None:
        settings = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.run(
            "pg_ctl", "-D", self.data, "-w", "-l", str(self.folder / "server.log"), "-o", settings, "start"
        )

    def stop(self) -> None:
        self.run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://team:{password}@127.0.0.1:{self.port}/{database}"


def programs() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        pytest.fail("There is no PostgreSQL server on this machine: run `sh tests/install.sh postgres`")
    return folders[-1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    names = [entry.pw_name for entry in pwd.getpwall()]
    unprivileged = "postgres" if "postgres" in names else "nobody"
    user = unprivileged if os.geteuid() == 0 else getpass.getuser()
    # Not below pytest's own folder, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory(prefix="apixo-pg-", ignore_cleanup_errors=True) as folder:
        if os.geteuid() == 0:
            shutil.chown(folder, user)
        running = Server(programs(), Path(folder), user, free_port())
        running.make()
        running.start()
        yield running
        running.stop()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """A database of its own for each test."""
    name = f"t{uuid.uuid4().hex}"
    execute(server.url("postgres"), f"CREATE DATABASE {name}")
    yield server.url(name)
    execute(server.url("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, statement: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()
