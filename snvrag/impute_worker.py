"""A process that computes parts of an imputation for the one that leads; see ``impute_jobs``."""

import contextlib
import json
import logging
import os
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from snvrag.copying import set_threads
from snvrag.errors import MismatchError
from snvrag.genetic_map import GeneticMap
from snvrag.impute_chunks import PartMaker
from snvrag.impute_jobs import error_to_json, part_from_json
from snvrag.networks import ChosenNetwork
from snvrag.panel import Panel

_LEFT_ALONE = 1


class _Answers(logging.Handler):
    """Lines of JSON to the process that leads: answers, and what is logged."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(logging.INFO)
        self._stream = stream

    def say(self, **what: Any) -> None:
        self._stream.write(json.dumps(what) + "\n")
        self._stream.flush()

    def emit(self, record: logging.LogRecord) -> None:
        self.say(log=record.getMessage(), level=record.levelno)


def main() -> int:
    """Compute what standard input asks for until it says that this was all; the exit code."""
    # Whatever a library prints must not get among the answers.
    answers = _Answers(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    try:
        _work(answers, _listen())
    except BaseException as error:  # the boundary: the process that leads tells the user
        with contextlib.suppress(BrokenPipeError):
            answers.say(error=error_to_json(error))
        return 1
    return 0


def _listen() -> "SimpleQueue[dict[str, Any]]":
    """A queue of what is asked for. At the end of it the process ends, even in a computation."""
    queue: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def read() -> None:
        with os.fdopen(os.dup(0)) as asked:
            for line in asked:
                queue.put(json.loads(line))
        os._exit(_LEFT_ALONE)

    threading.Thread(target=read, daemon=True).start()
    return queue


def _work(answers: _Answers, queue: "SimpleQueue[dict[str, Any]]") -> None:
    setup = queue.get()
    logger = logging.getLogger("snvrag")
    logger.propagate = False
    # What opening the files has to say, the process that leads has said already.
    logger.addHandler(logging.NullHandler())
    set_threads(setup["threads"])
    with contextlib.ExitStack() as stack:
        panel = stack.enter_context(Panel.open(Path(setup["panel"])))
        genetic_map = _path(setup["genetic_map"])
        maps = GeneticMap.read(genetic_map) if genetic_map else GeneticMap.uniform()
        network = ChosenNetwork.open(
            _path(setup["model"]),
            panel,
            maps,
            _path(setup["index_dir"]),
            setup["device"],
            setup["threads"],
            stack,
        )
        if setup["digests"] != [panel.digest, maps.digest, network.digest]:
            raise MismatchError(
                "panel, map or network was replaced while in use", "run the same command again"
            )
        maker = PartMaker.of_arrays(Path(setup["arrays"]), panel, network)
        logger.addHandler(answers)
        logger.setLevel(logging.INFO)
        while "end" not in (asked := queue.get()):
            maker.make(
                Path(asked["path"]),
                part_from_json(asked["part"]),
                lambda share: answers.say(share=share),
            )
            answers.say(done=True)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


if __name__ == "__main__":
    # Not by way of the interpreter's end: a thread still waits for what is asked for.
    os._exit(main())
