"""Runs a program from standard input within limits, and tells whether it ran to its end.

Arguments: a word that only the caller knows, CPU seconds, bytes of memory, bytes of a file. The last line on standard
output is that word and `passed` or `failed: ...`. The hooks keep a mistaken program from harm; a program that is made to
escape them needs a stronger cage around the whole.
"""
import os
import sys

word, cpu, memory, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
program = sys.stdin.buffer.read().decode()
told = os.dup(1)
nothing = os.open(os.devnull, os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(nothing, descriptor)
home = os.path.realpath(os.getcwd())

try:
    import resource

    for limit, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):
            pass  # macOS refuses some
    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    except (ValueError, OSError):
        pass
except ImportError:
    pass

FORBIDDEN = {
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill",
    "os.killpg", "os.chmod", "os.chown", "os.link", "os.symlink", "os.putenv", "os.unsetenv", "os.chdir",
    "os.fchdir", "os.chroot", "pty.spawn", "subprocess.Popen", "signal.pthread_kill", "shutil.rmtree",
    "shutil.move", "shutil.chown", "resource.setrlimit", "resource.prlimit", "sys.setprofile",
}
PATHS = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.utime"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def inside(path):
    if isinstance(path, int):
        return True  # an open file was judged when it was opened
    path = os.path.realpath(os.fsdecode(path))
    return path == os.devnull or path == home or path.startswith(home + os.sep)


def hook(event, arguments):
    if event in FORBIDDEN or event.startswith(("socket.", "ctypes.", "winreg.", "ftplib.", "smtplib.")):
        raise PermissionError(event + " is not allowed here")
    if event == "open":
        path, mode, flags = arguments
        writes = (mode and set(mode) & set("wax+")) or (flags and flags & WRITING)
        if writes and path is not None and not inside(path):
            raise PermissionError("writing outside of the own folder is not allowed here")
    elif event in PATHS and not all(inside(path) for path in arguments if isinstance(path, (str, bytes))):
        raise PermissionError(event + " outside of the own folder is not allowed here")


def main():
    write, leave = os.write, os._exit
    sys.addaudithook(hook)
    try:
        exec(compile(program, "program.py", "exec"), {"__name__": "program"})
        result = "passed"
    except BaseException as error:  # SystemExit and KeyboardInterrupt are failures too
        try:
            text = str(error)[:200]
            result = "failed: " + type(error).__name__ + (": " + text if text else "")
        except BaseException:
            result = "failed: " + type(error).__name__
    write(told, ("\n" + word + " " + result.replace("\n", " ")).encode("utf-8", "replace"))
    leave(0)


main()
