"""Programs in processes of their own that begin with blackvip imported: an import takes seconds, a fork does not.

``python programs.py DESCRIPTOR`` imports blackvip, and then forks itself for each program that comes through the socket
DESCRIPTOR. It ends when the socket's other end is closed. It needs Linux, as its users do.
"""

import gc
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import types

MOST_BYTES = 100_000  # of a program and its arguments
MOST_SECONDS = 900  # that a program may take


def preload_forks():
    """Let the workers of joblib and dask that are forks of a server begin with blackvip imported."""
    multiprocessing.set_forkserver_preload(["distributed", "blackvip"])


class Program:
    """A program that runs, with as much of `subprocess.Popen` as tests use: its streams are text."""

    def __init__(self, told, stdin, stdout, errors):
        self._told, self._errors = told, errors
        self.stdin, self.stdout = stdin, stdout
        self.pid = int(told.readline())

    def communicate(self):
        """End its input, wait for its end, and return what it has printed and its errors."""
        self.stdin.close()
        printed = self.stdout.read()
        self.wait()
        self._errors.seek(0)
        return printed, self._errors.read()

    def wait(self):
        self.returncode = int(self._told.readline())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for file in (self.stdin, self.stdout, self._told, self._errors):
            file.close()


class Programs:
    """Starts programs. Their arguments are those of Python: a script, or "-c" and code, and what they are to read."""

    def __init__(self):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-W", "always", __file__, str(theirs.fileno())]
            environment = {**os.environ, "PYTHONHASHSEED": "7"}  # another than that of the tests
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)

    def close(self):
        self._socket.close()
        self._process.wait(60)

    def start(self, *arguments, cwd=None, environment=None):
        """Start a program, with its own values of some variables of the environment; None removes one."""
        asked = {"arguments": [str(one) for one in arguments], "cwd": str(cwd or os.getcwd())}
        asked["environment"] = environment or {}
        told, stdin, stdout = os.pipe(), os.pipe(), os.pipe()
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        theirs = [told[1], stdin[0], stdout[1]]
        socket.send_fds(self._socket, [json.dumps(asked).encode()], [*theirs, errors.fileno()])
        for descriptor in theirs:
            os.close(descriptor)
        return Program(open(told[0]), open(stdin[1], "w"), open(stdout[0]), errors)

    def run(self, *arguments, **settings):
        """What a program leaves: its status, what it has printed, and its errors."""
        with self.start(*arguments, **settings) as program:
            printed, errors = program.communicate()
        return subprocess.CompletedProcess(arguments, program.returncode, printed, errors)


def become(arguments, cwd, environment):
    """Run a program in this process, as if Python had been started for it."""
    for number, action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGCHLD, signal.SIG_DFL)):
        signal.signal(number, action)
    signal.alarm(MOST_SECONDS)
    os.chdir(cwd)
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        code = compile(arguments[1], "<string>", "exec")
    else:
        sys.argv, sys.path[0] = arguments, str(pathlib.Path(arguments[0]).parent)
        main.__file__ = arguments[0]
        code = compile(pathlib.Path(arguments[0]).read_bytes(), arguments[0], "exec")
    exec(code, vars(main))


def serve(programs):
    """Fork for each program that is asked for, and for a process that tells how it ended."""
    import blackvip  # noqa: F401

    gc.freeze()  # a collection would copy all of this process into its fork
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that tell
    while True:
        asked, descriptors, _, _ = socket.recv_fds(programs, MOST_BYTES, 4)
        if not asked:
            return
        if not os.fork():
            break
        for descriptor in descriptors:
            os.close(descriptor)
    programs.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    tells, *streams = descriptors
    process = os.fork()
    if process:
        for descriptor in streams:
            os.close(descriptor)
        os.write(tells, f"{process}\n".encode())
        status = os.waitpid(process, 0)[1]
        os.write(tells, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    become(**json.loads(asked))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as programs:
        serve(programs)
