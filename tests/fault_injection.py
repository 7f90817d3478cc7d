"""Faults at the k-th file operation of a real program: a kill, a torn write, a disk full or slow from there on.

The program runs in a forked child. The kernel stops it (ptrace, at a seccomp filter) before every system call that
changes a file, whichever library makes it; no file operation of the program under test is replaced. Linux on x86-64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

FaultKind = Literal["kill", "torn", "full", "slow"]
SLOW_SECONDS = 0.05

# x86-64 的系统调用号
WRITES = {1: "write", 18: "pwrite64", 20: "writev", 40: "sendfile", 326: "copy_file_range"}
ON_DESCRIPTORS = {74: "fsync", 75: "fdatasync", 77: "ftruncate", 285: "fallocate"}
ON_PATHS = {2: "open", 76: "truncate", 82: "rename", 83: "mkdir", 84: "rmdir", 85: "creat", 86: "link", 87: "unlink"}
AT_PATHS = {257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat", 265: "linkat", 316: "renameat2"}
NEED_NO_ROOM = {"truncate", "ftruncate", "rename", "renameat", "renameat2", "rmdir", "unlink", "unlinkat"}
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_TRACEME, _CONT, _GETREGS, _SETREGS, _SYSCALL = 0, 7, 12, 13, 24
_SETOPTIONS, _SECCOMP_EVENT = 0x4200, 7
# 连同线程与子进程一起追踪：过滤器会被它们继承，没有追踪者时系统调用会失败
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x80 | 0x100000
_NO_NEW_PRIVILEGES, _SET_SECCOMP = 38, 22
_ALLOW, _TRACE = 0x7FFF0000, 0x7FF00000
_AT_CWD = -100

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@dataclass(frozen=True)
class Fault:
    """What happens at the file operation numbered `at` (from 0) under a folder."""

    kind: FaultKind
    at: int


@dataclass(frozen=True)
class Operation:
    """One file operation: its system call, and the path it changes."""

    call: str
    path: str


@dataclass
class Outcome:
    """How a program ended: its exit code (None: killed) and the operations it began."""

    code: int | None = None
    operations: list[Operation] = field(default_factory=list)


def unavailable() -> str:
    """Says why faults cannot be injected here, or nothing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "faults are injected on Linux on x86-64 only"
    outcome = run(lambda: 7, Path("/nowhere"), None, Path(os.devnull))
    return "" if outcome.code == 7 else "this machine does not let a process trace its child"


def run(program: Callable[[], int], folder: Path, fault: Fault | None, output: Path) -> Outcome:
    """Runs a program in a forked child and lets `fault` happen to its file operations under `folder`.

    Args:
        program: Returns its exit code; an exception it does not catch is exit code 99.
        folder: Operations elsewhere are neither counted nor disturbed.
        fault: What happens, or None.
        output: Where the program's output and errors go.
    """
    child = os.fork()
    if child == 0:
        _become_traced(program, output)
    os.waitpid(child, 0)
    _trace(_SETOPTIONS, child, _OPTIONS)
    _trace(_CONT, child, 0)
    return _Tracer(child, folder, fault).follow()


def _become_traced(program: Callable[[], int], output: Path) -> None:
    """The child's life; it never returns."""
    code = 99
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        _libc.ptrace(_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        _install_filter([*WRITES, *ON_DESCRIPTORS, *ON_PATHS, *AT_PATHS])
        code = program()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _install_filter(numbers: list[int]) -> None:
    """Asks the kernel to stop this process at these system calls (a classic BPF program)."""
    load = struct.pack("HBBI", 0x20, 0, 0, 0)
    jumps = [struct.pack("HBBI", 0x15, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    ends = [struct.pack("HBBI", 0x06, 0, 0, action) for action in (_ALLOW, _TRACE)]
    code = ctypes.create_string_buffer(b"".join([load, *jumps, *ends]))
    # struct sock_fprog：条数，然后是对齐后的指针
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(numbers) + 3, ctypes.addressof(code)))
    if _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or _libc.prctl(_SET_SECCOMP, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp is refused")


class _Registers(ctypes.Structure):
    """`struct user_regs_struct` of x86-64."""

    _names = (
        "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base "
        "ds es fs gs"
    )
    _fields_: ClassVar = [(name, ctypes.c_ulonglong) for name in _names.split()]


def _trace(request: int, pid: int, value: int | ctypes.Structure) -> None:
    argument = ctypes.byref(value) if isinstance(value, ctypes.Structure) else ctypes.c_void_p(value)
    if _libc.ptrace(request, pid, None, argument) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request} of {pid}")


class _Tracer:
    """Follows a child and all its threads and processes until the child ends."""

    def __init__(self, child: int, folder: Path, fault: Fault | None) -> None:
        self._child, self._prefix, self._fault = child, f"{folder}/", fault
        self._outcome = Outcome()

    def follow(self) -> Outcome:
        while True:
            pid, status = os.waitpid(-1, 0x40000000)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                if pid == self._child:
                    self._outcome.code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
                    return self._outcome
                continue
            # 进程可能刚被杀死：那就只剩它的终结可等
            try:
                self._stopped(pid, status)
            except ProcessLookupError:
                continue

    def _stopped(self, pid: int, status: int) -> None:
        passed_on = 0
        if status >> 16 == _SECCOMP_EVENT:
            if self._at_call(pid):
                return
        elif status >> 16 == 0 and os.WSTOPSIG(status) not in (signal.SIGTRAP, signal.SIGSTOP):
            passed_on = os.WSTOPSIG(status)
        _trace(_CONT, pid, passed_on)

    def _at_call(self, pid: int) -> bool:
        """Looks at a system call that is about to be made; True when the process is dealt with."""
        registers = _Registers()
        _trace(_GETREGS, pid, registers)
        operation = _operation(pid, registers)
        if operation is None or not operation.path.startswith(self._prefix):
            return False
        number = len(self._outcome.operations)
        self._outcome.operations.append(operation)
        if self._fault is None or number < self._fault.at:
            return False
        if self._fault.kind == "slow":
            time.sleep(SLOW_SECONDS)
            return False
        if self._fault.kind == "full":
            self._refuse(pid, registers, operation, number == self._fault.at)
            return False
        if self._fault.kind == "torn" and operation.call == "write":
            registers.rdx //= 2
            _trace(_SETREGS, pid, registers)
            _trace(_SYSCALL, pid, 0)
            os.waitpid(pid, 0x40000000)
        os.kill(self._child, signal.SIGKILL)
        return True

    def _refuse(self, pid: int, registers: _Registers, operation: Operation, first: bool) -> None:
        """The disk is full: the first write is cut short, all that need room after it fail."""
        if first and operation.call == "write" and registers.rdx > 1:
            registers.rdx //= 2
        elif operation.call in ("open", "openat") and Path(operation.path).exists():
            return
        elif operation.call not in NEED_NO_ROOM:
            registers.orig_rax = 2**64 - 1
            registers.rax = 2**64 - errno.ENOSPC
        _trace(_SETREGS, pid, registers)


def _operation(pid: int, registers: _Registers) -> Operation | None:
    """What a system call does to files; None for one that changes nothing."""
    number = int(registers.orig_rax)
    first, second, third = int(registers.rdi), int(registers.rsi), int(registers.rdx)
    if number in WRITES or number in ON_DESCRIPTORS:
        # copy_file_range 写的是第三个参数
        descriptor = third if number == 326 else first
        return Operation({**WRITES, **ON_DESCRIPTORS}[number], _descriptor_path(pid, descriptor))
    if number in ON_PATHS:
        call, path, flags = ON_PATHS[number], _path(pid, _AT_CWD, first), second
    else:
        call, path, flags = AT_PATHS[number], _path(pid, ctypes.c_int(first).value, second), third
    if call in ("open", "openat") and not flags & CHANGES:
        return None
    # 建已有的文件夹、删没有的文件：什么都不改变
    if call in ("mkdir", "mkdirat") and Path(path).is_dir():
        return None
    if call in ("unlink", "unlinkat") and not os.path.lexists(path):
        return None
    return Operation(call, path)


def _descriptor_path(pid: int, descriptor: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())
    except OSError:
        return ""


def _path(pid: int, folder: int, address: int) -> str:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        text = b""
        while b"\0" not in text:
            # 一次只读到页尾：下一页可能没有映射
            chunk = memory.read(4096 - (address + len(text)) % 4096)
            if not chunk:
                break
            text += chunk
    name = os.fsdecode(text.split(b"\0")[0])
    base = str(Path(f"/proc/{pid}/cwd").readlink()) if folder == _AT_CWD else _descriptor_path(pid, folder)
    return str(Path(base) / name)
