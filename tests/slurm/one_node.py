"""A temporary folder -> a real Slurm of one node, without systemd and cgroups, beside any other on the machine.

munged, slurmctld and slurmd run in the foreground as children of this process, with keys, sockets, state and ports of
their own; any user may start them (SlurmUser is the caller). Clients find the cluster by SLURM_CONF.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
SBIN = "/usr/sbin:/sbin"  # where Debian puts the daemons; not on the PATH of an ordinary user
CPUS, MEMORY_MB = 2, 8000
CONFIG = """
ClusterName=atlastest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=2
MinJobAge=300
InactiveLimit=0
SlurmctldTimeout=60
SlurmdTimeout=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """Programs of Slurm and munge that this machine lacks."""
    return [name for name in NEEDED if _find(name) is None]


@dataclass(frozen=True)
class OneNode:
    """A running Slurm; `environment` is what its clients need."""

    folder: Path
    environment: Mapping[str, str] = field(repr=False)
    partition: str = "test"

    def run(self, *words: object) -> str:
        """Run a client program; its stdout. RuntimeError with its stderr when it fails."""
        done = subprocess.run(
            [str(w) for w in words], env=dict(self.environment), capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{words}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def queue(self) -> dict[str, str]:
        """State of every job (array tasks one by one) that has not ended, by job id."""
        lines = self.run("squeue", "-h", "-r", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def state(self, job: str) -> str:
        """State of a job or array task, also after its end (kept for MinJobAge)."""
        text = self.run("scontrol", "-o", "show", "job", job)
        return text.split("JobState=")[1].split()[0]

    def wait(self, *, seconds: float = 300, busy: tuple[str, ...] = ()) -> None:
        """Wait until no job (or none of the `busy` ids) is in the queue; TimeoutError with the queue after that."""
        end = time.monotonic() + seconds
        while left := {k: v for k, v in self.queue().items() if not busy or k in busy}:
            if time.monotonic() > end:
                raise TimeoutError(f"still queued after {seconds} s: {left}\n{self.logs()}")
            time.sleep(0.25)

    def logs(self) -> str:
        """The last lines of the daemons' logs."""
        return "\n".join(
            f"-- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            for path in sorted(self.folder.glob("*.log"))
        )


@contextmanager
def one_node() -> Iterator[OneNode]:
    """Start munged, slurmctld and slurmd; stop them, and every job, at the end.

    RuntimeError with the end of the logs when one does not come up.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: a socket's path holds 107 characters
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)  # munged refuses a socket that others cannot reach
        environment = _environment(folder)
        _configure(folder)
        stack.callback(_kill_left, folder)
        _start_munged(stack, folder, environment)
        for daemon in ("slurmctld", "slurmd"):
            stack.enter_context(_daemon([daemon, "-D"], folder / f"{daemon}.out.log", environment))
        node = OneNode(folder, environment)
        _await_idle(node)
        stack.callback(_cancel_all, node)
        yield node


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


def _environment(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
    return {**kept, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{kept.get('PATH', '')}:{SBIN}"}


def _configure(folder: Path) -> None:
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o755)
    host = socket.gethostname().split(".")[0]
    ports = _free_ports(2)
    text = CONFIG.format(
        folder=folder,
        host=host,
        user=getpass.getuser(),
        controller_port=ports[0],
        node_port=ports[1],
        cpus=CPUS,
        memory=MEMORY_MB,
    )
    if _version() >= (23, 11):  # before, cgroups are left alone when no plugin asks for them
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    (folder / "slurm.conf").write_text(text)


def _version() -> tuple[int, ...]:
    words = subprocess.check_output([str(_find("slurmctld")), "-V"], text=True).split()  # "slurm-wlm 22.05.8"
    return tuple(int(part) for part in words[-1].split(".")[:2])


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start_munged(stack: ExitStack, folder: Path, environment: Mapping[str, str]) -> None:
    place = folder / "munge"
    (place / "key").write_bytes(secrets.token_bytes(128))
    (place / "key").chmod(0o400)
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "munged.log"}
    options = [f"--{option}={place / name}" for option, name in names.items()]
    command = [str(_find("munged")), "--foreground", "--force", *options]
    process = stack.enter_context(_daemon(command, folder / "munged.log", environment))
    _await((place / "socket").exists, process, folder / "munged.log")


@contextmanager
def _daemon(command: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    program = str(_find(command[0]))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [program, *command[1:]], env=dict(environment), stdout=out, stderr=subprocess.STDOUT, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{process.args} did not come up: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _await_idle(node: OneNode, seconds: float = 40) -> None:
    end, state = time.monotonic() + seconds, ""
    while state != "idle":
        if time.monotonic() > end:
            raise RuntimeError(f"the node is {state!r}, not idle, after {seconds} s\n{node.logs()}")
        time.sleep(0.2)
        try:
            state = node.run("sinfo", "-h", "-o", "%T").strip()
        except RuntimeError as error:  # the controller does not answer yet
            state = str(error)


def _cancel_all(node: OneNode) -> None:
    """End all jobs, so that no step outlives its daemon; KillWait is 2 s."""
    node.run("scancel", f"--user={getpass.getuser()}")
    node.wait(seconds=30)


def _kill_left(folder: Path) -> None:
    """Kill what still runs with this cluster's configuration in its environment (steps of a daemon that crashed)."""
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            mine = mark in path.read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        if mine and int(path.parent.name) != os.getpid():
            os.kill(int(path.parent.name), signal.SIGKILL)
