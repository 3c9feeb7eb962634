"""Child: the process that runs one model for `aside.ChildRunner`, and can do no harm but its own.

    python -m gateway.inference.child     speaks over its standard input and output

It reads one order to load a model, then orders to run it, and answers each; it ends when its
input does, or its parent. Before it looks at the model it gives up
memory beyond a limit, files, core dumps and new processes. A message, either way, is two lengths
(little-endian, 32 bits), a JSON object of the first, and bytes of the second.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
import threading
import time
from typing import Any, BinaryIO, Protocol

import numpy as np

from gateway.errors import ModelFailed
from gateway.inference.manifest import Layout
from gateway.inference.runtime import Runner

__all__ = ["LENGTHS", "read_message", "write_message"]

LENGTHS = struct.Struct("<II")
PARENT_CHECK_S = 1.0


class Writing(Protocol):
    """Where a message can be written."""

    def write(self, content: bytes | memoryview, /) -> object: ...

    def flush(self) -> None: ...


def write_message(stream: Writing, said: dict[str, Any], content: bytes | memoryview = b"") -> None:
    """Send a message."""
    head = json.dumps(said).encode()
    stream.write(LENGTHS.pack(len(head), len(content)))
    stream.write(head)
    stream.write(content)
    stream.flush()


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None at the end."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    head, content = LENGTHS.unpack(lengths)
    return json.loads(stream.read(head)), stream.read(content)


def _give_up_what_a_model_needs_not(memory_bytes: int) -> None:
    import onnxruntime  # noqa: F401, PLC0415 - its own memory is not the model's

    size = int(_statm()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = {
        resource.RLIMIT_AS: size + memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 16,
    }
    for which, limit in limits.items():
        resource.setrlimit(which, (limit, limit))


def _end_with_the_parent() -> None:
    """A model that never ends must not outlive the gateway, which would have killed it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _statm() -> list[str]:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no more imports
        return file.read().split()


def _rss_bytes() -> int:
    try:
        return int(_statm()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no file may be opened any more: then the most there was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _load(order: dict[str, Any], model: bytes) -> tuple[Runner, dict[str, Any]]:
    runner = Runner(
        model,
        input_name=order["input"],
        score=order["score"],
        contributions=order["contributions"],
        column=order["column"],
        layout=Layout(order["layout"]),
        strict=order["strict"],
    )
    return runner, {"differing": runner.interface(order["window"], order["features"])}


def _serve(orders: BinaryIO, answers: BinaryIO) -> None:
    first = read_message(orders)
    if first is None:
        return
    order, model = first
    window, features = order["window"], order["features"]
    _give_up_what_a_model_needs_not(order["memory_bytes"])
    try:
        runner, answer = _load(order, model)
    except (ModelFailed, MemoryError) as error:
        write_message(answers, {"error": str(error) or "out of memory"})
        return
    del model
    write_message(answers, answer)
    while (message := read_message(orders)) is not None:
        windows = np.frombuffer(message[1], np.float32).reshape(-1, window, features)
        try:
            if len(runner.windows) < len(windows):
                runner.reserve(len(windows), window, features)
            runner.windows[: len(windows)] = windows
            began_s = time.thread_time()
            scores, contributions = runner.run()
            ms = (time.thread_time() - began_s) * 1000
        except (ModelFailed, MemoryError) as error:
            write_message(answers, {"error": str(error) or "out of memory"})
            continue
        found = scores[: len(windows)].tobytes()
        if contributions is not None:
            found += contributions[: len(windows)].tobytes()
        said = {"ms": ms, "rss_bytes": _rss_bytes(), "has_shares": contributions is not None}
        write_message(answers, said, found)


def main() -> None:
    """Serve until the orders end."""
    _end_with_the_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
