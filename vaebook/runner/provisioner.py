"""The Jupyter kernel provisioner that forks kernels: see :mod:`vaebook.runner.forked`.

Whatever starts kernels through jupyter_client uses it where JUPYTER_DEFAULT_PROVISIONER_NAME names it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from vaebook.runner.forked import ForkedProcess, PlainStart, fork, start_server


class ForkedProvisioner(LocalProvisioner):
    """Starts kernels by a fork where that makes no difference, and plainly where it would."""

    process: Any = None  # A Popen, or a ForkedProcess.

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        try:
            start_server()
            kernel = fork(cmd, **self._scrub_kwargs(kwargs))
        except (PlainStart, OSError) as reason:
            self.log.info("plain start of the kernel: %s", reason)
            return await super().launch_kernel(cmd, **kwargs)
        self.process, self.pid, self.pgid = kernel, kernel.pid, kernel.pid
        self.cwd = kwargs.get("cwd") or Path.cwd()
        return self.connection_info

    async def send_signal(self, signum: int) -> None:
        if isinstance(self.process, ForkedProcess):
            self.process.send_signal(signum)
        else:
            await super().send_signal(signum)

    async def shutdown_requested(self, restart: bool = False) -> None:
        # The manager looks ten times a second whether the kernel has gone. An idle one goes sooner.
        for _ in range(100):
            if not isinstance(self.process, ForkedProcess) or self.process.poll() is not None:
                break
            await asyncio.sleep(0.005)


class PromptClient(AsyncKernelClient):
    """A client that begins as soon as the kernel answers on both of its channels.

    That of jupyter_client then waits until nothing came for 0.2 s, lest messages of the start be taken for
    those of a cell. nbclient tells them apart by themselves.
    """

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while time.monotonic() < end:
            self.kernel_info()
            with suppress(Empty):
                reply = await self.get_shell_msg(timeout=1)
                # What it publishes reaches us too, or else it is asked again.
                await self.get_iopub_msg(timeout=0.2)
                if reply["msg_type"] == "kernel_info_reply":
                    self._handle_kernel_info_reply(reply)
                    return
            if not await self.is_alive():
                raise RuntimeError("the kernel died before it was ready")
        raise RuntimeError(f"the kernel was not ready after {timeout} s")
