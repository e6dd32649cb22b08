"""Runs `train.py` as two processes on the CPU, both forked from one that has imported everything."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import os, sys
import train
from training.tasks import task_class
for family in sys.argv.pop(1).split(","):
    task_class(family)
children = []
for rank in ("0", "1"):
    child = os.fork()
    if child == 0:
        os.environ.update(RANK=rank, LOCAL_RANK=rank)
        code = train.main(sys.argv[1:])
        sys.stderr.flush()
        os._exit(code)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def train_on_two(arguments: list[str], families: tuple[str, ...], port: int) -> None:
    """`train.py` with these arguments in two gloo processes; AssertionError with what they said where one fails."""
    shared = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CODE, ",".join(families), *arguments, "--processes", "2"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **shared}, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
