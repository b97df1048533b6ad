"""A real SLURM of one node for the tests: Debian's packages slurm-wlm and munge, started by root."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

CONFIGURATION = """
ClusterName=mdsens
SlurmctldHost={host}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={port}
SlurmdPort={other_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
MpiDefault=none
SwitchType=switch/none
SchedulerParameters=batch_sched_delay=0,sched_interval=1,requeue_delay=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def why_not():
    """The reason why SLURM cannot be started here, or None."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "squeue") if not _which(name)]
    if missing:
        return f"SLURM is not installed: {', '.join(missing)} missing (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "SLURM's daemons are started by root only"


@contextlib.contextmanager
def cluster():
    """Start SLURM, and yield the environment in which its commands work."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # where munge's user may go
        yield from _cluster(Path(folder))


def _cluster(folder: Path):
    host, running = socket.gethostname().split(".")[0], []
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    for path in (folder, key):
        shutil.chown(path, "munge", "munge")
    folder.chmod(0o755)
    key.chmod(0o600)
    settings = folder / "slurm.conf"
    ports = {"port": _free_port(), "other_port": _free_port()}
    settings.write_text(CONFIGURATION.format(folder=folder, host=host, cores=os.cpu_count(), **ports))
    environment = os.environ | {"SLURM_CONF": str(settings)}
    parts = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={folder}/munge.{ending}" for option, ending in parts.items()]
    munge = [_which("munged"), "--foreground", "--force", *options]
    try:
        for command, user in ((munge, "munge"), ([_which("slurmctld"), "-D"], None), ([_which("slurmd"), "-D"], None)):
            log = (folder / f"{Path(command[0]).name}.out").open("w")
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, user=user))
            time.sleep(1.0)
        _wait_for_node(environment, folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--user", "root"], env=environment, check=False, capture_output=True)
        for process in reversed(running):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def _wait_for_node(environment, folder):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False
        )
        if answer.stdout.strip() in ("idle", "mixed", "allocated"):
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(folder.glob("*.log")))
    raise RuntimeError(f"SLURM's node did not come up: {answer.stdout} {answer.stderr}\n{logs}")


def _which(name):
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
