"""local.py: processes that start, end and fail together."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import LAUNCH


def start(code, *flags):
    command = [sys.executable, LAUNCH / "local.py", "--timeout=1", *flags, "--", "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


ME = "import os, sys, time; me = os.environ['SSL_GAN_JAX_DISTRIBUTED'].split(',')[1:]; "


def test_each_process_knows_its_number_and_marks_its_lines():
    process = start(ME + "print(*me, os.environ['JAX_NUM_CPU_DEVICES'])", "--processes=3")
    out, _ = process.communicate(timeout=30)
    assert sorted(out.splitlines()) == ["[0] 3 0 1", "[1] 3 1 1", "[2] 3 2 1"]
    assert process.returncode == 0


@pytest.mark.parametrize(("end", "code"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137)])
def test_one_that_fails_takes_the_others_along(end, code):
    process = start(ME + f"{end} if me[1] == '1' else time.sleep(60)")
    assert process.wait(timeout=30) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_all(number):
    handler = "import signal; signal.signal(15, lambda *_: (print('saved'), sys.exit())); "
    process = start(ME + handler + "print('up', flush=True); time.sleep(60)")
    assert {process.stdout.readline() for _ in range(2)} == {"[0] up\n", "[1] up\n"}
    time.sleep(0.1)
    os.kill(process.pid, number)
    out, _ = process.communicate(timeout=30)
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"] and process.returncode == 0
