"""The processes that compare mathematical answers; `ur2.rewards.math` starts and asks them.

`python -m ur2.rewards.math_worker FD` imports and warms the libraries once, then makes a worker by
`fork` for each socket that it is handed over FD. A worker answers JSON lines. Before a comparison
it sets kernel timers whose signals it does not handle, so that an expression which hangs, even in C
code, ends its worker and nothing else.
"""

import json
import logging
import resource
import signal
import socket
import sys
from os import _exit, fork

from ur2.rewards.math_algebra import have_one_value
from ur2.rewards.math_compare import PercentRule, decide
from ur2.rewards.math_text import canonical

MAX_MEMORY_BYTES = 2 * 2**30
TYPICAL = (
    r"\frac{1}{2}", r"2\sqrt{3}", r"x^2+2x+1", r"(1,2)", r"[0,\infty)", r"(-\infty,1)\cup(2,3]",
    r"\{1,2,3\}", r"\frac{\sqrt{2}}{2}", r"10\%", r"90^\circ", r"5\text{ cm}", r"x=3", r"x \le 2",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"3+4i", r"2\pi", r"1,000", r"\sin x", r"0.5",
    r"e^{2x}", r"\binom{5}{2}", r"\log_2 8", r"-\frac{3}{4}", r"a^2b - 3ab^2", r"\text{(B)}", "n!",
)  # fmt: skip
"""Parsed before the first fork: every worker inherits the decisions that the parser caches."""


def main() -> None:
    """Forks a worker for each socket received, until the control socket closes."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the run, which ends this process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    for text in TYPICAL:
        have_one_value(text, canonical(text))
        have_one_value(text, "x+1")
    control = socket.socket(fileno=int(sys.argv[1]))
    control.sendall(b"\n")
    while True:
        message, handles, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        connection = socket.socket(fileno=handles[0])
        if fork() == 0:
            control.close()
            _serve(connection)
            _exit(0)
        connection.close()


def _serve(connection: socket.socket) -> None:
    """Answers {"prediction", "gold", "timeout_s", "cpu_s"} with a line end and then {"equal"}.

    The line end says that the comparison begins: who dies after it died of the comparison.
    """
    stream = connection.makefile("rwb")
    for line in stream:
        request = json.loads(line)
        stream.write(b"\n")
        stream.flush()
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
        signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])
        equal = _equal(request["prediction"], request["gold"], request["percent"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        stream.write(json.dumps({"equal": equal}).encode() + b"\n")
        stream.flush()


def _equal(prediction: str, gold: str, percent: PercentRule) -> bool:
    return bool(decide(prediction, gold, percent, have_one_value))


if __name__ == "__main__":
    main()
