"""Flower's own programs as child processes: a SuperLink, SuperNodes, and runs of an app."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
_PATIENCE = 60.0  # seconds for a program to begin or to end
_PORTS = set(range(20000, 32000))  # those that `free_port` hasn't given to anybody
_CHANCE = random.SystemRandom()  # programs with the same `random.seed` would pick the same ports


class Federation:
    """Flower on this machine, for as long as the `with` block lasts.

    Args:
        folder: for logs and Flower's own files.
        certificates: the folder that `make_certificates.py` has filled: TLS, and only nodes with a
            registered key may join. None: neither, which suits a single machine only.
        env: more environment variables for all programs.
    """

    def __init__(self, folder: Path, certificates: Path | None = None, env: dict | None = None):
        self.folder = Path(folder).resolve()
        self.certificates = None if certificates is None else Path(certificates).resolve()
        self.address = f"127.0.0.1:{free_port()}"
        self.processes: dict[str, subprocess.Popen] = {}
        self._home = self.folder / "flower"
        self._env = {
            **os.environ,
            "FLWR_HOME": str(self._home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
            **(env or {}),
        }

    def __enter__(self) -> Federation:
        self._home.mkdir(parents=True, exist_ok=True)
        connection = [f'address = "{self.address}"']
        if self.certificates is None:
            connection.append("insecure = true")
        else:
            connection.append(f'root-certificates = "{self.certificates / "ca.crt"}"')
        lines = ["[superlink]", 'default = "here"', "[superlink.here]", *connection]
        (self._home / "config.toml").write_text("\n".join(lines) + "\n")
        self.start_superlink()
        return self

    def __exit__(self, *_) -> None:
        for name in list(self.processes):
            self.stop(name)

    def start_superlink(self) -> None:
        """Start the SuperLink and wait until it listens."""
        options = ["--disable-runtime-dependency-installation", *self._tls()]
        host, port = self.address.split(":")
        self._start("superlink", ["flower-superlink", "--host", host, "--port", port, *options])
        began = time.monotonic()
        while time.monotonic() - began < _PATIENCE:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                return
            time.sleep(0.2)
        raise TimeoutError(f"The SuperLink does not listen on {self.address}:\n{self.log()}")

    def start_node(self, name: str, config: dict | None = None, key: str | None = None, env=None):
        """Start a SuperNode.

        Args:
            name: of the node, and of its log.
            config: what its ClientApp finds in `context.node_config`.
            key: the file of its private key.
            env: more environment variables, for its ClientApp too.
        """
        root = ["--root-certificates", str(self.certificates / "ca.crt")] if self._tls_on else []
        command = ["flower-supernode", "--superlink", self.address, "--port", str(free_port())]
        command += root or ["--insecure"]
        command += ["--auth-supernode-private-key", str(key)] if key else []
        if config:
            quoted = (f'{k}="{v}"' if isinstance(v, str) else f"{k}={v}" for k, v in config.items())
            command += ["--node-config", " ".join(quoted)]
        self._start(name, command, env)

    def run(self, app: Path, config: dict, shown=lambda line: None) -> int:
        """Run an app to its end; `shown` is given each line of its log. Returns flwr's status."""
        quoted = (f'{k}="{v}"' if isinstance(v, str) else f"{k}={v}" for k, v in config.items())
        command = ["run", str(app), "here", "--stream", "--run-config", " ".join(quoted)]
        process = subprocess.Popen(
            [BIN / "flwr", *command],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes["run"] = process
        for line in process.stdout:
            shown(line.rstrip())
        return process.wait()

    def flwr(self, *arguments: str) -> str:
        """What a command of `flwr` prints."""
        done = subprocess.run(
            [BIN / "flwr", *arguments], env=self._env, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"flwr {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def stop(self, name: str, how: int = signal.SIGTERM) -> None:
        """End a program and all that it started."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(_PATIENCE / 6)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self, name: str = "superlink") -> str:
        """What a program has written."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    @property
    def _tls_on(self) -> bool:
        return self.certificates is not None

    def _tls(self) -> list[str]:
        if not self._tls_on:
            return ["--insecure"]
        files = {"--ssl-ca-certfile": "ca.crt", "--ssl-certfile": "server.crt"}
        files["--ssl-keyfile"] = "server.key"
        options = [text for k, v in files.items() for text in (k, str(self.certificates / v))]
        return [*options, "--enable-supernode-auth"]

    def _start(self, name: str, command: list[str], env: dict | None = None) -> None:
        with open(self.folder / f"{name}.log", "a") as log:
            self.processes[name] = subprocess.Popen(
                [BIN / command[0], *command[1:]],
                env=self._env | (env or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def free_port() -> int:
    """A port of the loopback that nobody listens on.

    Below those that systems give to outgoing connections (from 32768 or 49152 on): between here and
    the program that is to listen on it, nothing else takes it by chance.
    """
    for port in _CHANCE.sample(sorted(_PORTS), 1000):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            _PORTS.remove(port)  # whoever asked listens later
            return port
    raise OSError("None of a thousand ports from 20000 to 32000 is free on 127.0.0.1.")
