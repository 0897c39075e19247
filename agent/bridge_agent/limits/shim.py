"""Puts walls around itself, then becomes the engine. Run as a script by `isolation.start`.

Standard library only and no import of ours: it runs as `python -I -S shim.py FD`, so that it starts
in a few milliseconds and carries nothing of the agent into the engine. FD is one end of a socket
pair: the agent sends one JSON object (see `main`), the shim answers with lines of JSON:
{"pid": N} (the engine's pid as the host sees it) and, when a wall fails, {"fault": "…", "wall": "…"}.
The socket closes by itself when the engine execs, which tells the agent that every wall stands.

Order, and why: cgroups first (nothing runs unlimited); namespaces; mounts while privileges last;
user and capabilities; no_new_privs; exec. A user namespace comes first where it lends the rights for the
others. Root has them, and enters its own last: what is mounted before it cannot be undone from inside,
and a fresh /proc is not refused because a service's /proc is partly covered.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import socket
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself would cost milliseconds at every start
    from typing import Any

CLONE = {
    "mount": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
SYS_MOUNT_SETATTR = 442
SYS_OPEN_TREE, OPEN_TREE_CLONE = 428, 1
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = -100, 0x8000, 1
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
LINUX_CAPABILITY_VERSION_3 = 0x20080522
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
SMALL = 1 << 20  # bytes of a tmpfs that only covers

libc = ctypes.CDLL(None, use_errno=True)


class WallFault(Exception):
    """A wall that could not be put up."""

    def __init__(self, wall: str, reason: str) -> None:
        super().__init__(reason)
        self.wall = wall


def call(wall: str, name: str, *arguments: object) -> None:
    """Calls libc's `name`; raises WallFault with the errno's text when it returns -1."""
    if getattr(libc, name)(*arguments) == -1:
        code = ctypes.get_errno()
        raise WallFault(wall, f"{name}: {os.strerror(code)}")


def enter_cgroups(directories: list[str]) -> None:
    """Moves this process, and so all that it becomes, into each group."""
    for directory in directories:
        try:
            with open(f"{directory}/cgroup.procs", "w") as file:
                file.write("0")
        except OSError as fault:
            raise WallFault("cgroup", f"{directory}: {fault.strerror}") from fault


def open_proc() -> int:
    """A /proc that stays writable and in reach, whatever is mounted over it."""
    handle: int = libc.syscall(SYS_OPEN_TREE, AT_FDCWD, b"/proc", OPEN_TREE_CLONE | os.O_CLOEXEC)
    if handle == -1:
        raise WallFault("user", f"open_tree: {os.strerror(ctypes.get_errno())}")
    return handle


def enter_user(proc: int) -> None:
    """A user namespace, in which this user stays itself and there is no other."""
    uid, gid = os.getuid(), os.getgid()
    call("user", "unshare", CLONE["user"])
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            handle = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
            try:
                os.write(handle, text.encode())
            finally:
                os.close(handle)
        except OSError as fault:
            raise WallFault("user", f"{name}: {fault.strerror}") from fault


def unshare(walls: list[str]) -> None:
    """Leaves the host's namespaces."""
    for wall in ("mount", "uts", "ipc", "net", "pid"):
        if wall in walls:
            call(wall, "unshare", CLONE[wall])


def raise_loopback() -> None:
    """A fresh network namespace has its loopback down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mounts as the system call of that name does; None where it takes NULL."""
    encode = [part.encode() if part is not None else None for part in (source, target, kind, data)]
    if libc.mount(encode[0], encode[1], encode[2], ctypes.c_ulong(flags), encode[3]) == -1:
        raise WallFault("mount", f"mount on {target}: {os.strerror(ctypes.get_errno())}")


def set_read_only(path: str, *, read_only: bool) -> None:
    """Sets or clears the read-only attribute of every mount at and below `path`."""
    attributes = struct.pack("QQQQ", *((1, 0) if read_only else (0, 1)), 0, 0)
    buffer = ctypes.create_string_buffer(attributes)
    arguments = (AT_FDCWD, path.encode(), AT_RECURSIVE, buffer, ctypes.c_size_t(len(attributes)))
    if libc.syscall(SYS_MOUNT_SETATTR, *arguments) == -1:
        raise WallFault("mount", f"read-only {path}: {os.strerror(ctypes.get_errno())}")


def build_mounts(spec: dict[str, Any], *, fresh_proc: bool, group: str) -> None:
    """A read-only system with own /tmp, /dev and /proc; `hidden` folders empty but for what is bound back.

    What is bound is opened first: a fresh tmpfs may cover the way to it. Then each path is mounted
    after those above it, so that the innermost word counts.
    """
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    shown = [*spec["readable"], *spec["writable"], *spec["devices"], "/dev/null"]
    kept = {path: os.open(path, os.O_PATH) for path in shown if os.path.exists(path)}
    if group:  # on v2 its own group alone, so that it knows its limits
        kept["/sys/fs/cgroup"] = os.open(group, os.O_PATH)
    fresh = dict.fromkeys(["/dev", *spec["hidden"]], f"mode=755,size={SMALL}")
    fresh |= dict.fromkeys(("/tmp", "/dev/shm"), f"mode=1777,size={spec['tmp_bytes']}")
    for path in sorted({*fresh, *kept, *spec["masked"]}, key=lambda path: path.count("/")):
        if path in kept:
            show(path, kept[path])
        elif path in spec["masked"]:
            if os.path.exists(path):
                bind(kept["/dev/null"], path)
        else:
            if path == "/dev/shm":
                os.makedirs(path, exist_ok=True)
            if os.path.isdir(path):
                mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, fresh[path])
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"/dev/{name}")
    if fresh_proc:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    set_read_only("/", read_only=True)
    for path in ["/tmp", "/dev/shm", *spec["writable"], *(["/proc"] if fresh_proc else [])]:
        if os.path.exists(path):
            set_read_only(path, read_only=False)
    if fresh_proc:
        close_proc(kept["/dev/null"])
    for handle in kept.values():
        os.close(handle)


def show(path: str, handle: int) -> None:
    """Binds what was opened to where it was, also where that is covered meanwhile."""
    if os.path.isdir(f"/proc/self/fd/{handle}"):
        os.makedirs(path, exist_ok=True)
    elif not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    bind(handle, path)


def bind(handle: int, path: str) -> None:
    """Mounts what was opened at `path`, with all that is mounted below it."""
    mount(f"/proc/self/fd/{handle}", path, None, MS_BIND | MS_REC)


def close_proc(null: int) -> None:
    """Nothing in /proc that reaches past the engine's own processes.

    These ask for no capability of a root user, only that the file is root's: to write sysrq-trigger
    would restart the machine, core_pattern names a program that the kernel runs as root.
    """
    for name in ("sys", "sysrq-trigger", "irq", "bus", "fs"):
        path = f"/proc/{name}"
        if os.path.exists(path):
            mount(path, path, None, MS_BIND | MS_REC)
            set_read_only(path, read_only=True)
    for name in ("kcore", "keys", "timer_list", "sched_debug", "latency_stats"):
        if os.path.exists(f"/proc/{name}"):
            bind(null, f"/proc/{name}")


def drop_privileges(spec: dict[str, Any]) -> None:
    """Another user where asked, then no capability in any set, and none to be had by exec."""
    if spec["drop_capabilities"]:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            last = int(file.read())
        for capability in range(last + 1):
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == -1:
                break  # not permitted: an unprivileged process has none to drop
    if spec["uid"] is not None:
        try:
            os.setgroups([])
            os.setresgid(spec["gid"], spec["gid"], spec["gid"])
            os.setresuid(spec["uid"], spec["uid"], spec["uid"])
        except OSError as fault:
            wall = "unprivileged" if "unprivileged" in spec["walls"] else "user"
            raise WallFault(wall, f"becoming uid {spec['uid']}: {fault.strerror}") from fault
    if spec["drop_capabilities"]:
        header = struct.pack("Ii", LINUX_CAPABILITY_VERSION_3, 0)
        call("capabilities", "capset", ctypes.create_string_buffer(header), ctypes.create_string_buffer(24))
    if spec["no_new_privs"]:
        call("no_new_privs", "prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main() -> None:
    """Reads the spec, builds the walls, execs. Exit status 125: a wall failed, and was told."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    spec = json.loads(channel.makefile("rb").readline())
    walls = spec["walls"]

    def tell(**message: object) -> None:
        # An agent that went away meanwhile is no reason to stop: it adopts the engine later.
        with contextlib.suppress(OSError):
            channel.sendall(json.dumps(message).encode() + b"\n")

    try:
        enter_cgroups(spec["cgroups"])
        proc = -1
        if "user" in walls and os.geteuid() == 0:
            proc = open_proc()
        elif "user" in walls:
            with_rights = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
            enter_user(with_rights)
            os.close(with_rights)
        unshare(walls)
        if "pid" in walls:
            # Only children enter a new PID namespace. The engine becomes its process 1: when it
            # dies, the kernel ends whatever it left behind.
            child = os.fork()
            if child:
                tell(pid=child)
                os._exit(0)
            os.setsid()
        else:
            tell(pid=os.getpid())
        if "uts" in walls:
            socket.sethostname(spec["hostname"])
        if "net" in walls:
            raise_loopback()
        if "mount" in walls:
            usual = os.umask(0o022)  # another user passes through the folders made on the way
            # With one group there is one tree: v2's.
            group = spec["cgroups"][0] if len(spec["cgroups"]) == 1 else ""
            build_mounts(spec["mount"], fresh_proc="pid" in walls, group=group)
            os.umask(usual)
        if proc != -1:
            enter_user(proc)
            os.close(proc)
        drop_privileges(spec)
        # A core file would fill the disk, and has people's prompts in it.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for name, value in spec["rlimits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        os.chdir(spec["cwd"])
        os.execve(spec["argv"][0], spec["argv"], spec["env"])
    except WallFault as fault:
        tell(fault=str(fault), wall=fault.wall)
    except OSError as fault:
        tell(fault=f"{fault.filename or spec['argv'][0]}: {fault.strerror}", wall="exec")
    os._exit(125)


if __name__ == "__main__":
    main()
