"""A file system without locks, as NFS without its lock service: the kernel itself refuses them to this process."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

# x86-64 的系统调用号，与 fcntl 的上锁命令
_FCNTL, _FLOCK, _SETLK, _SETLKW = 72, 73, 6, 7
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2


def unavailable() -> str:
    """Says why this cannot be done here, or nothing."""
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    return "" if linux else "locks are refused on Linux on x86-64 only"


def forbid_locks(flock: int = errno.ENOSYS, record: int = errno.ENOLCK) -> None:
    """Lets `flock` and the record locks of `fcntl` fail in this process and its children; 0 leaves them alone."""
    instructions = [
        (_LOAD, 0, 0, 0),
        (_JUMP_EQUAL, 0, 1, _FLOCK),
        (_RETURN, 0, 0, _ERRNO | flock if flock else _ALLOW),
        (_JUMP_EQUAL, 0, 4, _FCNTL),
        # 第二个参数的低 32 位：命令
        (_LOAD, 0, 0, 16 + 8),
        (_JUMP_EQUAL, 1, 0, _SETLK),
        (_JUMP_EQUAL, 0, 1, _SETLKW),
        (_RETURN, 0, 0, _ERRNO | record if record else _ALLOW),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
