"""The errors that a user caused or can mend: `train.py` prints them in one or two lines and exits."""


class RunError(ValueError):
    """What is wrong, where, and what to do; shown without a traceback."""


class CheckpointError(RunError):
    """A checkpoint or a run folder cannot be written, or what was read is not what was written."""


class NonFiniteError(RunError):
    """A loss or a gradient was NaN or infinite; the optimiser did not step on it."""


class Terminated(Exception):
    """SIGTERM or SIGINT arrived; the state was saved. `signum` gives the exit code 128 + signum."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"stopped by signal {signum} after step {step}; run the same command again to resume")
        self.signum = signum
