"""A signal that reaches one of several processes stops all of them at the same step."""

from tests.two_processes import free_port, gloo_environment, run_on_two

IMPORTS = """
import signal, types
from accelerate import Accelerator
from transformers import TrainerControl, TrainerState
from training.callbacks import StopOnSignal
"""
PROGRAM = """
stop = StopOnSignal()
stop.accelerator = Accelerator(cpu=True)
assert stop.accelerator.num_processes == 2
args = types.SimpleNamespace(world_size=2, save_strategy="steps")
state = TrainerState(global_step=3, max_steps=9, epoch=0.5)

def control_after(event):
    control = TrainerControl(should_log=True)
    getattr(stop, event)(args, state, control)
    return control.should_save, control.should_training_stop, control.should_log

with stop:
    assert control_after("on_step_end") == (False, False, True)
    if rank == 1:
        signal.raise_signal(signal.SIGINT)
    assert stop.signum is None  # neither knows of the other's before they have agreed
    assert control_after("on_epoch_end") == (False, False, True)
    assert control_after("on_step_end") == (True, True, True)
    assert stop.signum == (signal.SIGINT if rank == 1 else signal.SIGTERM)
    assert control_after("on_epoch_end") == (False, False, False)
stop.accelerator.end_training()
"""


def test_processes_agree_on_a_signal_before_one_of_them_acts_on_it():
    run_on_two(IMPORTS, PROGRAM, env=gloo_environment(free_port()))
