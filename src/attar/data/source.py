"""What every dataset looks like to the stages: two splits of labelled images and the identity of its classes."""

import abc
import hashlib
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image


class Split(abc.ABC):
    """Labelled images that are decoded when asked for; safe to use from threads and to send to other processes."""

    labels: np.ndarray
    """int64, one class index an image."""

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def image(self, index: int) -> Image.Image:
        """One image as RGB in its original size; raises Unreadable."""

    def encoded(self, index: int) -> bytes | None:
        """One image's file as it is stored; None where images are no files. Raises Unreadable."""
        return None

    @abc.abstractmethod
    def where(self, index: int) -> str:
        """Where a person finds this image: its path, or its file and row."""

    @abc.abstractmethod
    def identity(self) -> str:
        """A SHA-256 that other images or labels would change, found without reading every pixel; knows no paths."""

    def former_identity(self) -> str:
        """The identity from names and sizes alone, which older runs have written down."""
        return self.identity()

    def stamp(self) -> str | None:
        """A text that changes when any image on this machine or in the store changes; None where nothing tells.

        Unlike the identity it may also change when nothing but a file's time does. Empty where the identity knows all.
        """
        return None

    @abc.abstractmethod
    def num_bytes(self) -> int:
        """Bytes of the images as they are stored."""

    def blocks(self) -> Int[np.ndarray, " image"] | None:
        """For each image the number of its block, a shard or a part of one; None where each image is a file."""
        return None

    def block_bytes(self) -> Int[np.ndarray, " block"] | None:
        """The bytes that each block, by its number, takes where it is fetched to; None where none is fetched."""
        return None

    def swept(self) -> "Split":
        """The same images, for reading many of each block soon, as in an epoch: remote blocks are fetched whole."""
        return self

    def fetch(self, block: int) -> None:  # noqa: B027
        """Fetch a block ahead of its use, where blocks are remote."""

    def finish(self, block: int) -> None:  # noqa: B027
        """Let a fetched block be removed before others; it is not needed soon."""

    def select(
        self,
        indices: Int[np.ndarray, "chosen"],  # noqa: F821
        labels: Int[np.ndarray, "chosen"] | None = None,  # noqa: F821
    ) -> "Split":
        """The images at these indices, in this order, under these labels (default: their own)."""
        return Subset(self, indices, self.labels[indices] if labels is None else labels)


class Subset(Split):
    """Some images of another split."""

    def __init__(self, base: Split, indices: np.ndarray, labels: np.ndarray) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self._base = base
        self._indices = np.asarray(indices, dtype=np.int64)

    def image(self, index: int) -> Image.Image:
        return self._base.image(int(self._indices[index]))

    def encoded(self, index: int) -> bytes | None:
        return self._base.encoded(int(self._indices[index]))

    def where(self, index: int) -> str:
        return self._base.where(int(self._indices[index]))

    def identity(self) -> str:
        return hashed(self._base.identity().encode(), self._indices, self.labels)

    def former_identity(self) -> str:
        return hashed(self._base.former_identity().encode(), self._indices, self.labels)

    def stamp(self) -> str | None:
        return self._base.stamp()

    def blocks(self) -> Int[np.ndarray, " image"] | None:
        found = self._base.blocks()
        return None if found is None else found[self._indices]

    def block_bytes(self) -> Int[np.ndarray, " block"] | None:
        return self._base.block_bytes()

    def swept(self) -> Split:
        return Subset(self._base.swept(), self._indices, self.labels)

    def fetch(self, block: int) -> None:
        self._base.fetch(block)

    def finish(self, block: int) -> None:
        self._base.finish(block)

    def num_bytes(self) -> int:
        """In proportion to the number of images."""
        return self._base.num_bytes() * len(self) // max(1, len(self._base))


class Arrays(Split):
    """Images of one size that are in memory already."""

    def __init__(self, images: UInt8[np.ndarray, "image height width 3"], labels: np.ndarray, name: str) -> None:
        """``name`` is what ``where`` calls the dataset."""
        self.labels = np.asarray(labels, dtype=np.int64)
        self._images = images
        self._name = name

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index])

    def where(self, index: int) -> str:
        return f"{self._name} image {index}"

    def identity(self) -> str:
        return hashed(np.ascontiguousarray(self._images), self.labels)

    def stamp(self) -> str:
        return ""

    def num_bytes(self) -> int:
        return self._images.nbytes


@dataclass(frozen=True)
class Found:
    """What a reader of one format found, before classes are chosen and a missing validation split is held out."""

    classes: tuple[str, ...]
    train: Split
    val: Split | None
    titles: dict[str, str] = field(default_factory=dict)
    licence: str = "unknown"
    faults: dict[str, str] = field(default_factory=dict)
    """Class without training images to the sentence that says why and how to fix it; other such classes have none."""


@dataclass(frozen=True)
class RealData:
    """A real dataset, ready to be used."""

    name: str
    classes: tuple[str, ...]
    """Identity of the classes (WordNet ids where there are some); the order is that of the labels."""
    titles: dict[str, str]
    """Class to a name that people read, where one is known."""
    train: Split
    val: Split
    fingerprint: str
    """SHA-256 of the class names and of both splits' identities; does not depend on where the files are."""
    licence: str
    former_fingerprint: str = ""
    """The fingerprint from names and sizes of files alone: older runs, which recorded it, continue under it."""


def hashed(*parts: bytes | np.ndarray) -> str:
    """A SHA-256 over bytes and arrays, with their types and shapes."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            digest.update(b"bytes %d " % len(part) + part)
        else:
            digest.update(f"{part.dtype.str} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
