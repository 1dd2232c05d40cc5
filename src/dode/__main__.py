"""`python -m dode`, and the command `dode`.

Nothing that takes time is imported before signals are listened to: whenever Ctrl-C or SIGTERM comes, the end is one line and the exit code
130 or 143.
"""

from __future__ import annotations

import contextlib
import os
import sys

from dode import stopping


def main() -> None:
    """Run the command line and end the process."""
    code: object = 0
    try:
        stopping.listen()
        # Before PyTorch is loaded: threads that wait for each other by spinning cost tens of times the work where cores are shared.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from dode.cli import main as run

        run()
    except SystemExit as end:
        code = end.code
    except BaseException:
        if not stopping.heard():
            raise
    if stop := stopping.ended():
        said, code = stop
        print(f"{said}: no file is left half-written", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):  # `dode show FILE | head` has seen enough
            stream.flush()
    # At once: unloading PyTorch takes a while, and a signal that came then would go unanswered.
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
