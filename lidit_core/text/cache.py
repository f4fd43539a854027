"""States that were computed before: one bounded memory cache, and a folder when asked.

Neither holds model weights. Keys name everything that can change a state.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..errors import LiDiTError
from ..io.tensors import write_safetensors
from ..paths import at_home

log = logging.getLogger(__name__)
ABANDONED = 24 * 3600  # seconds after which a file that was never finished is thrown away


@dataclass(frozen=True, eq=False)
class PromptStates:
    """States of one prompt, unpadded, and how its tokens came about."""

    hidden: Tensor  # (L, C)
    roles: Tensor  # (L,) int32
    span: tuple[int, int]  # token span of the prompt
    used: int  # tokens of the prompt that were read
    total: int  # tokens of the prompt before it was cut
    budget: int  # tokens of a prompt that the LLM reads at most under this template
    cached: bool = False  # whether they were there before they were asked for
    offsets: Tensor | None = None  # (used, 2) int32, the characters of the prompt's tokens
    emphasis: Tensor | None = None  # (L,) float32, see `LLMStates`; never in a cache

    def cpu(self) -> PromptStates:
        return replace(self, hidden=self.hidden.cpu(), roles=self.roles.cpu())

    def copied(self) -> PromptStates:
        offsets = None if self.offsets is None else self.offsets.clone()
        return replace(self, hidden=self.hidden.clone(), roles=self.roles.clone(), offsets=offsets)

    @property
    def bytes(self) -> int:
        places = 0 if self.offsets is None else self.offsets.numel()
        return self.hidden.numel() * self.hidden.element_size() + (self.roles.numel() + places) * 4


class StateCache:
    """The least recently used states give way when `max_bytes` are exceeded; thread-safe."""

    def __init__(self, max_bytes: int = 256 << 20):
        self.max_bytes, self.bytes = max_bytes, 0
        self._entries: OrderedDict[str, PromptStates] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> PromptStates | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: str, states: PromptStates) -> None:
        with self._lock:
            self._drop(key)
            self._entries[key] = states
            self.bytes += states.bytes
            while self.bytes > self.max_bytes:
                self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def _drop(self, key: str) -> None:
        old = self._entries.pop(key, None)
        self.bytes -= old.bytes if old else 0


MEMORY = StateCache()  # the one memory cache of the process


class DiskCache:
    """One safetensors file a prompt; the oldest go when `max_bytes` are exceeded."""

    def __init__(self, folder: str | Path, max_bytes: int = 2 << 30):
        self.folder, self.max_bytes = at_home(folder), max_bytes
        self._unseen = max_bytes  # bytes written since the folder was last looked through

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def get(self, key: str) -> PromptStates | None:
        """The states under `key`; a damaged file counts as none and is removed."""
        path = self.path(key)
        if not path.is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                numbers = [int(n) for n in file.metadata()["prompt"].split()]
                hidden, roles = file.get_tensor("hidden"), file.get_tensor("roles")
                offsets = file.get_tensor("offsets") if "offsets" in file.keys() else None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("%s is damaged (%s) and is computed again", path, error)
            path.unlink(missing_ok=True)
            return None
        first, end, used, total, budget = numbers
        return PromptStates(hidden, roles, (first, end), used, total, budget, offsets=offsets)

    def tokens(self, key: str) -> tuple[int, int] | None:
        """How many tokens of a kept prompt were read and how many it has, from the header."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path(key), framework="pt") as file:
                numbers = [int(n) for n in file.metadata()["prompt"].split()]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None  # `get` tells of a damaged file
        return numbers[2], numbers[3]

    def put(self, key: str, states: PromptStates) -> None:
        """Keep the states; where that fails it is logged, for they are not lost to the caller."""
        numbers = " ".join(map(str, (*states.span, states.used, states.total, states.budget)))
        tensors = {"hidden": states.hidden.cpu(), "roles": states.roles.cpu()}
        if states.offsets is not None:  # files of older versions have none
            tensors["offsets"] = states.offsets
        try:
            write_safetensors(self.path(key), tensors, {"prompt": numbers})
        except LiDiTError as error:
            log.warning("the states of a prompt are not kept: %s", error)
        self._unseen += states.bytes
        if self._unseen > self.max_bytes // 16:
            self._prune()

    def path(self, key: str) -> Path:
        """The file of a key, whether it is there or not."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def _prune(self) -> None:
        """Remove the oldest files; other processes may add and remove some at the same time."""
        self._unseen = 0
        files = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                if path.suffix == ".safetensors":
                    files.append((stat.st_mtime, stat.st_size, path))
                elif path.suffix == ".part" and time.time() - stat.st_mtime > ABANDONED:
                    path.unlink()
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


@dataclass
class StateCaches:
    """The caches in front of an encoder; either may be left out."""

    memory: StateCache | None
    disk: DiskCache | None

    def states(
        self,
        prompts: Sequence[str],
        identity: Callable[[], str],
        compute: Callable[[list[str]], list[PromptStates]],
        offsets: bool = False,
    ) -> list[PromptStates]:
        """States of every prompt; those that are in no cache are computed together, and kept.

        Args:
            identity: gives all that can change the states but the prompt. It is asked again after
                a computation, since an LLM may be converted when it is first loaded.
            compute: encodes the prompts that are in no cache, and gives states on the CPU.
            offsets: whether states without the places of their tokens, which the files of older
                versions lack, are computed anew.
        """
        before = identity()
        recalled = {prompt: self.recall(states_key(before, prompt)) for prompt in prompts}
        known = {
            prompt: states
            for prompt, states in recalled.items()
            if states is not None and not (offsets and states.offsets is None)
        }
        fresh = [prompt for prompt in recalled if prompt not in known]
        if fresh:
            computed = compute(fresh)
            after = identity()
            for prompt, states in zip(fresh, computed, strict=True):
                known[prompt] = states
                self.remember(states_key(after, prompt), states)
        return [known[prompt] for prompt in prompts]

    def recall(self, key: str) -> PromptStates | None:
        """The states under `key`; what one cache has is put into the other."""
        states = self.memory.get(key) if self.memory else None
        if states is None:
            states = self.disk.get(key) if self.disk else None
            if states is not None and self.memory:
                self.memory.put(key, states)
        elif self.disk and key not in self.disk:
            self.disk.put(key, states)
        return None if states is None else replace(states, cached=True)

    def remember(self, key: str, states: PromptStates) -> None:
        """Put the states into every cache that there is."""
        for cache in (self.memory, self.disk):
            if cache:
                cache.put(key, states)


def states_key(identity: str, prompt: str) -> str:
    """The name of a prompt's states in the caches."""
    return hashlib.sha256(f"{identity}\0{prompt}".encode("utf-8", "surrogatepass")).hexdigest()
