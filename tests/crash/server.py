"""A process that has imported everything and forks one child a command, to be killed at will.

It reads a line of JSON a command: `words`; `root`, whose file operations count; `at`, the one
before which the child ends as if killed (null: none). It answers with a line: exit code, number
of operations, their names, the end of what the child printed.
"""

import json
import os
import signal
import sys
from pathlib import Path

KILLED = 77
SECONDS = 300  # of waiting for one command, which takes less than one; then it counts as stuck
STUCK = -signal.SIGALRM  # its exit code then
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Operations:
    """Counts the file operations below a folder, and ends the process before one of them."""

    def __init__(self, root, at):
        self.root, self.at, self.names = root, at, []

    def count(self, name, path, half=None):
        """Count one; `half` does a part of it, as a process killed in its middle would."""
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str | Path) or not str(path).startswith(self.root):
            return
        self.names.append(f"{name} {os.path.relpath(path, self.root)}")
        if len(self.names) == self.at:
            if half is not None:
                half()
            os._exit(KILLED)

    def audit(self, event, args):
        if event == "open" and args[2] and args[2] & _WRITING:
            self.count("open", args[0])
        elif event == "os.rename":
            self.count("rename", args[0])
        elif event in ("os.remove", "os.rmdir", "os.mkdir"):
            fd = args[-1]
            path = args[0] if fd < 0 else Path(f"/proc/self/fd/{fd}").readlink() / args[0]
            self.count(event.removeprefix("os."), path)
        elif event == "os.truncate":
            self.count("truncate", _place(args[0]))

    def install(self):
        """Look at every operation from here on; there is no way back."""
        import safetensors.torch

        from saekit.core import parts
        from saekit.training.log import Log

        sys.addaudithook(self.audit)
        fsync, write, exchange, logged = os.fsync, os.write, parts._exchange, Log.write
        save_file = safetensors.torch.save_file

        def counted_fsync(fd):
            self.count("fsync", _place(fd))
            fsync(fd)

        def counted_write(fd, data):
            self.count("write", _place(fd), lambda: write(fd, data[: len(data) // 2]))
            return write(fd, data)

        def counted_save(tensors, path, metadata=None):
            self.count("write", path, lambda: Path(path).with_name(".tmpabc").write_bytes(b"half"))
            save_file(tensors, path, metadata)

        def counted_exchange(one, other):
            self.count("exchange", one)
            exchange(one, other)

        def counted_log(log, kind, **record):
            def half():
                log._file.write('{"kind": "st')
                log._file.flush()

            self.count("write", log.path, half)
            logged(log, kind, **record)

        os.fsync, os.write, parts._exchange = counted_fsync, counted_write, counted_exchange
        safetensors.torch.save_file, Log.write = counted_save, counted_log


def _place(fd):
    if not isinstance(fd, int):
        return fd
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return ""


def in_child(job, out_fd, err):
    """Run a command; never returns."""
    signal.alarm(SECONDS)
    fd = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    operations = Operations(job["root"], job["at"])
    code = 1
    try:
        from saekit.cli.main import main

        operations.install()
        main([str(w) for w in job["words"]])
    except SystemExit as error:
        code = error.code
    except BaseException:  # what a user would see
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(out_fd, "w") as answer:
        json.dump(operations.names, answer)
    os._exit(code or 0)


def serve(model):
    """Answer commands until there are no more."""
    import saekit.analysis.indexing
    import saekit.cli.main
    import saekit.studies.layers.survey
    import saekit.studies.locality.runs.depth
    import saekit.studies.truth.training  # noqa: F401 - so that no child has to
    from saekit.models import hf

    loaded, real = hf.load(model, dtype="float32"), hf.load

    def load(name, **options):
        same = str(name) == model and options.get("dtype") in ("auto", "float32")
        return loaded if same else real(name, **options)

    hf.load = load
    _warm(model)
    err = f"{model}-errors-{os.getpid()}"
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            in_child(job, writer, err)
        os.close(writer)
        with os.fdopen(reader) as said:
            names = said.read()
        _, status = os.waitpid(child, 0)
        text = Path(err).read_text(errors="replace")[-2000:]
        answer = {"code": os.waitstatus_to_exitcode(status), "text": text}
        answer["names"] = json.loads(names) if names else []
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _warm(model):
    """Do once what every child would do again: imports, the commands' options, asking git."""
    import contextlib
    import functools
    import gc
    import io

    import typer.main

    from saekit.cli.main import main
    from saekit.core import provenance

    typer.main.get_command = functools.cache(typer.main.get_command)
    provenance._commit = functools.cache(provenance._commit)
    out = Path(f"{model}-warm")
    text = Path(model).parent / "text.jsonl"
    words = [
        "train",
        "--model",
        model,
        "--corpus",
        text,
        "--d-sae",
        "16",
        "--k",
        "2",
        "--quiet",
        "--tokens",
        "300",
        "--dtype",
        "float32",
        "--set",
        "n_ctx=16",
    ]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([str(w) for w in [*words, "--out", out]])
    assert (out / "sae").exists()
    gc.freeze()  # so that children share pages


if __name__ == "__main__":
    serve(sys.argv[1])
