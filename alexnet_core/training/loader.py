"""Batches of images on the training device, without a DataLoader.

A small split lives on the device as one uint8 tensor; a large one stays in its memory map, and one thread gathers the
coming batches from it while the present one trains.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from alexnet_core.data.dataset import Split

# 不超过这个大小的 split 整个放到设备上
RESIDENT_BYTES = 2 * 1024**3
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Some images of a split on a device.

    Attributes:
        images: uint8 (M, H, W, C), 0..255; those of the batch are among them.
        rows: int64 (B,), where in `images` the batch's images are.
        indices: int64 (B,), their numbers in the split, which key their random draws.
        labels: int64 (B,).
        mean: float32 (H, W, C), the per-pixel mean of the training images (paper section 2).
        mean_follows_crop: See `TrainingSpec`.
    """

    images: torch.Tensor
    rows: torch.Tensor
    indices: torch.Tensor
    labels: torch.Tensor
    mean: torch.Tensor
    mean_follows_crop: bool = True


class ImageLoader:
    """The images of a split, taken to a device batch by batch.

    Attributes:
        device: Where the batches are.
        labels: int64 (N,), on the device.
        mean: float32 (H, W, C), on the device.
    """

    def __init__(
        self,
        split: Split,
        mean_image: np.ndarray,
        device: str | torch.device,
        *,
        mean_follows_crop: bool = True,
        resident_bytes: int | None = None,
    ) -> None:
        """Takes the labels, and the images of a small split, to the device; on the CPU arrays are shared.

        Args:
            split: The images.
            mean_image: float32 (H, W, C) of the training images.
            device: Where batches go.
            mean_follows_crop: See `TrainingSpec`.
            resident_bytes: Largest split that is kept on the device; None for `RESIDENT_BYTES`.
        """
        self.device = torch.device(device)
        self.labels = torch.from_numpy(_writable(split.labels)).to(self.device)
        self.mean = torch.from_numpy(_writable(mean_image)).to(self.device)
        self._split = split
        self._mean_follows_crop = mean_follows_crop
        self._resident: tuple[torch.Tensor, torch.Tensor | None] | None = None
        if len(split) * split.images[:1].nbytes <= (RESIDENT_BYTES if resident_bytes is None else resident_bytes):
            self._resident = _resident(split, self.device)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def take(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Returns the batch of the images `indices`, int64 (B,)."""
        chosen = np.asarray(indices, dtype=np.int64)
        return next(self.batches(chosen, [(0, len(chosen))]))

    def batches(self, order: np.ndarray, bounds: Sequence[tuple[int, int]]) -> Generator[Batch, None, None]:
        """Yields a batch for each (first, last) of `bounds`; the images of one are there until the next is asked for.

        Args:
            order: int64, numbers of images.
            bounds: Parts of `order`, `last` excluded.
        """
        on_device = torch.from_numpy(order).to(self.device)
        if self._resident is not None:
            images, places = self._resident
            for first, last in bounds:
                indices = on_device[first:last]
                yield self._batch(images, indices if places is None else places[indices], indices)
            return
        with ThreadPoolExecutor(1, "gather") as pool:
            reader = _Reader(self._split, self.device, max((last - first for first, last in bounds), default=0))
            waiting: deque[tuple[int, int, Future[tuple[torch.Tensor, torch.Tensor]]]] = deque()
            for first, last in bounds:
                waiting.append((first, last, pool.submit(reader.read, order[first:last])))
                if len(waiting) > BATCHES_AHEAD:
                    yield self._gathered(on_device, *waiting.popleft())
            while waiting:
                yield self._gathered(on_device, *waiting.popleft())

    def _gathered(
        self, order: torch.Tensor, first: int, last: int, reading: Future[tuple[torch.Tensor, torch.Tensor]]
    ) -> Batch:
        """The batch of `order[first:last]`, int64 (N,), once its images (B, H, W, C) are read."""
        images, rows = reading.result()
        if self.device.type == "cuda":
            # 张量在拷贝流上分配，要告诉分配器主流也在用
            images.record_stream(torch.cuda.current_stream(self.device))
        return self._batch(images, rows, order[first:last])

    def _batch(self, images: torch.Tensor, rows: torch.Tensor, indices: torch.Tensor) -> Batch:
        """Images (M, H, W, C), rows and indices int64 (B,), see `Batch`."""
        return Batch(images, rows, indices, self.labels[indices], self.mean, self._mean_follows_crop)


class _Reader:
    """Gathers rows of a memory map into a ring of buffers, and takes them to the device."""

    def __init__(self, split: Split, device: torch.device, largest: int) -> None:
        self._split, self._device, self._turn = split, device, 0
        on_gpu = device.type == "cuda"
        shape = (largest, *split.images.shape[1:])
        # 正在训练的一批、等待的几批、正在写的一批，各占一块；反复使用，不再付缺页的代价
        count = 1 if on_gpu else BATCHES_AHEAD + 2
        self._buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu) for _ in range(count)]
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def read(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns, of the images `indices` (B,), pixels uint8 (B, H, W, C) and rows int64 (B,), on the device."""
        ascending = np.argsort(indices)
        rows = np.empty_like(ascending)
        rows[ascending] = np.arange(len(indices))
        buffer = self._buffers[self._turn % len(self._buffers)][: len(indices)]
        self._turn += 1
        # 按地址升序读，磁盘和页缓存都更快
        self._split.gather(indices[ascending], buffer.numpy())
        if self._stream is None:
            return buffer, torch.from_numpy(rows)
        with torch.cuda.stream(self._stream):
            images = buffer.to(self._device, non_blocking=True)
            places = torch.from_numpy(rows).to(self._device)
        self._stream.synchronize()
        return images, places


def _resident(split: Split, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images (M, H, W, C) on the device, and where among them each is, int64 (N,); None where they are in order."""
    if split.rows is not None and device.type == "cpu":
        # 内存映射原样使用，不复制
        return torch.from_numpy(_writable(split.images)), torch.from_numpy(split.rows)
    images = split.images if split.rows is None else split.images[split.rows]
    return torch.from_numpy(_writable(images)).to(device), None


def _writable(array: np.ndarray) -> np.ndarray:
    """An array of any shape, contiguous and writable; a copy where it is not."""
    # torch 不接受只读数组和负步长（BGR 转 RGB 的切片）；写时复制的内存映射本来就可写
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable else array.copy()
