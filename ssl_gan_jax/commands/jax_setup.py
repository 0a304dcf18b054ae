"""Settings of JAX and of the C library, to be made before the first computation."""

import contextlib
import os
import sys

from absl import logging

from ssl_gan_jax import processes
from ssl_gan_jax.errors import UserError


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


def use_huge_pages() -> None:
    """Restarts this program with glibc's huge pages, which a running process cannot switch on.

    XLA allocates its working memory at each call. In pages of 4 kB that took up to a quarter of a
    step's time on a CPU. A program with GLIBC_TUNABLES is not restarted.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # other C libraries ignore it
        with contextlib.suppress(OSError):  # then without huge pages
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
