"""The command line in processes of its own that start at once, to be killed.

They are forked from a server that has imported what commands need and has run nothing.
"""

import contextlib
import io
import multiprocessing
import random
import time

NEEDED = (
    "saekit.cli.main",
    "saekit.models.hf",
    "saekit.training.loop",
    "saekit.activations.cache.caching",
)
_CONTEXT = multiprocessing.get_context("forkserver")


def command(words):
    """Run the command line; its exit code is that of the process."""
    from saekit.cli.main import main

    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        main(words)


def started(words):
    """Return a process that runs the command line."""
    _CONTEXT.set_forkserver_preload([*NEEDED, "transformers"])
    process = _CONTEXT.Process(target=command, args=([str(w) for w in words],))
    process.start()
    return process


def killed(words, progress):
    """Kill a command at a random moment after `progress()` has grown; return whether it was."""
    before = progress()
    process = started(words)
    while progress() <= before and process.is_alive():
        time.sleep(0.002)
    time.sleep(random.random() * 0.1)
    process.kill()
    process.join()
    return process.exitcode < 0


def done(words):
    """Run a command to its end and return its exit code."""
    process = started(words)
    process.join()
    return process.exitcode
