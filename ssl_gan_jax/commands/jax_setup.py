"""Settings of JAX and of the C library, which a program makes before its first computation."""

import contextlib
import os
import sys

from absl import logging

from ssl_gan_jax import processes
from ssl_gan_jax.errors import UserError


def prepare_jax(replicas: int = 1, mode: str = "off") -> None:
    """Settings of JAX that a program must make before its first computation.

    Joins the other processes of the run, where `mode`, --distributed, says that there are some.
    Compiled programs are kept for the next start, in the user's own cache unless
    JAX_COMPILATION_CACHE_DIR says where. On a CPU each replica gets a device of its own, which
    shares the cores with the others; JAX ignores this where there is an accelerator.

    Raises:
      UserError: JAX finds no device, such as one that JAX_PLATFORMS names.
    """
    processes.start(mode)

    import jax

    from ssl_gan_jax.data.records import cache_folder

    if not jax.config.jax_compilation_cache_dir:
        try:
            jax.config.update("jax_compilation_cache_dir", str(cache_folder("jax")))
        except UserError as error:  # a command on a finished run needs no cache
            logging.info("%s; compiled programs are not kept", error)
    if replicas > 1:
        jax.config.update("jax_num_cpu_devices", replicas)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # what JAX raises depends on the platform
        named = jax.config.jax_platforms or ""
        raise UserError(
            f"JAX_PLATFORMS={named}: JAX finds no such device here "
            f"({(str(error) or 'no reason given').splitlines()[0]}); unset it, or set it to cpu"
        ) from None


def use_huge_pages() -> None:
    """Starts this program anew with glibc's huge pages on, which a process cannot do for itself.

    XLA takes its working memory from the system anew at each call. In pages of 4 kB that took up
    to a quarter of a step's time on a CPU. Whoever sets GLIBC_TUNABLES has decided otherwise.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # other C libraries ignore it
        with contextlib.suppress(OSError):  # then without them
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
