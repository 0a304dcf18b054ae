"""Settings of JAX and of the C library, to be made before the first computation."""

import contextlib
import ctypes
import os
import sys

from absl import logging

from ssl_gan_jax import processes
from ssl_gan_jax.errors import UserError

_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_KEEP_MEMORY = {-4: 0, -1: 2**31 - 1, -8: 1}  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX


def prepare_jax(replicas: int = 1, mode: str = "off") -> None:
    """Prepares JAX. Must be called before its first computation.

    Compiled programs are cached in JAX_COMPILATION_CACHE_DIR, by default in the user's cache.

    Args:
      replicas: on a CPU, the number of virtual devices; JAX ignores it if there is an accelerator.
      mode: --distributed, see `processes.start`.

    Raises:
      UserError: JAX finds no device, such as that of JAX_PLATFORMS.
    """
    processes.start(mode)

    import jax

    from ssl_gan_jax.data.records import cache_folder

    if not jax.config.jax_compilation_cache_dir:
        try:
            jax.config.update("jax_compilation_cache_dir", str(cache_folder("jax")))
        except UserError as error:  # commands on a finished run need no cache
            logging.info("%s; compiled programs are not kept", error)
    if replicas > 1:
        jax.config.update("jax_num_cpu_devices", replicas)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # what JAX raises depends on the platform
        platforms = jax.config.jax_platforms or ""
        raise UserError(
            f"JAX_PLATFORMS={platforms}: JAX finds no such device here "
            f"({(str(error) or 'no reason given').splitlines()[0]}); unset it, or set it to cpu"
        ) from None


def tune_malloc() -> None:
    """Sets glibc to huge pages, with which it restarts this program, and to keep what is freed.

    XLA allocates its working memory at each call. In pages of 4 kB that took up to a quarter of a
    step's time on a CPU, and 4 to 8 % more if freed memory went back to the system. A program
    with other GLIBC_TUNABLES is left as it is.
    """
    if sys.platform != "linux":
        return
    if "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = _HUGE_PAGES  # other C libraries ignore it
        with contextlib.suppress(OSError):  # then without huge pages
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if os.environ["GLIBC_TUNABLES"] == _HUGE_PAGES:
        with contextlib.suppress(AttributeError):  # another C library
            for option, value in _KEEP_MEMORY.items():
                ctypes.CDLL(None).mallopt(option, value)
