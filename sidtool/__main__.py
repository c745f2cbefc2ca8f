"""The console script, and `python -m sidtool`.

An interrupt while modules are imported, or while the interpreter ends, ends the process as it ends
any program: it would be a traceback of Python otherwise."""

import signal


def main() -> None:
    """Run the command line."""
    handler = signal.getsignal(signal.SIGINT)
    interruptible = handler is signal.default_int_handler  # it is ignored under nohup
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from sidtool.cli.main import called_command

    command = called_command()
    if interruptible:
        signal.signal(signal.SIGINT, handler)
    try:
        command()
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
