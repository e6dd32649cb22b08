"""Programs run as two processes on the CPU, both forked from one that has imported everything."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FORK = """
import gc, os, sys
gc.freeze()
children = []
for rank in (0, 1):
    child = os.fork()
    if child == 0:
        break
    children.append(child)
else:
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
"""
TRAINER = """
import sys
import train
from training.tasks import task_class
for family in sys.argv.pop(1).split(","):
    task_class(family)
"""
TRAIN = """
code = train.main(sys.argv[1:])
sys.stderr.flush()
os._exit(code)
"""


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_on_two(imports: str, program: str, *arguments: object, code: int = 0, **options) -> str:
    """Run `imports` once and then `program` in two processes, whose `rank` is 0 and 1; both read `sys.argv[1:]`.

    `options` go to `subprocess.run`. Returns what they said on stderr; AssertionError with it where the larger exit
    code is not `code`.
    """
    command = [sys.executable, "-c", imports + FORK + program, *map(str, arguments)]
    done = subprocess.run(command, **{"capture_output": True, "text": True, "timeout": 400, "check": False, **options})
    assert done.returncode == code, done.stderr
    return done.stderr


def gloo_environment(port: int) -> dict[str, str]:
    """This process's environment for two gloo processes of accelerate that meet at a port."""
    shared = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **shared}


def train_on_two(arguments: list[str], families: tuple[str, ...], code: int = 0) -> str:
    """`train.py` with these arguments in two gloo processes, which end with `code`; what they said on stderr."""
    arguments = [",".join(families), *arguments, "--processes", "2"]
    return run_on_two(TRAINER, TRAIN, *arguments, code=code, cwd=ROOT, env=gloo_environment(free_port()))
