"""The table of data sets, and `load`, the one way in.

A new data set is one class here, or in a package of the user's under the entry point group `vdvae_patch.datasets`.
Readers are imported when they are used: the command line needs the names alone, and needs them without numpy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vdvae_patch.errors import DataError, InvalidValueError
from vdvae_patch.registry import Registry, parse_spec

if TYPE_CHECKING:
    from vdvae_patch.data.binarized import Binarization
    from vdvae_patch.data.images import ImageData, Splits
    from vdvae_patch.data.pixels import Labels


@dataclass(frozen=True)
class Published:
    """How many training images a data set has, and their size `[height, width, channels]`."""

    train: int
    height: int
    width: int
    channels: int


class DataSet(ABC):
    """A data set that has a name; its docstring's first line is what a listing shows.

    Attributes:
        two_values: whether pixels are 0 or 255 alone, once a batch of them is taken.
        published: how many images it trains on and their size, where that is known without a file.
    """

    two_values: ClassVar[bool] = False
    published: ClassVar[Published | None] = None

    @abstractmethod
    def read(self, root: Path | None, *, download: bool) -> Splits:
        """The three splits, not yet limited or fingerprinted.

        Raises:
            DataError: files that are missing, damaged or mis-shaped.
        """

    def labels(self, root: Path | None) -> Labels:
        """The class of each training image, from 0, in the order in which `read` gives them: `[N]`.

        Raises:
            DataError: they are missing or damaged, or nothing is known of any.
        """
        raise DataError("its images have no labels")


DATASETS: Registry[DataSet] = Registry("data set", "vdvae_patch.datasets", lambda: DataSet)


def load(
    name: str,
    root: Path | None,
    *,
    seed: int = 0,
    limit_images: int | None = None,
    download: bool = True,
    or_blank: bool = False,
) -> ImageData:
    """Read a data set.

    Args:
        name: an entry of `DATASETS`, with arguments if it takes any: `cifar10`, `builtin(train=64)`.
        root: the folder that holds the data (`--data-root`); without one, CIFAR-10 is downloaded to the cache folder.
        seed: chooses the images of `limit_images`; the data sets and their splits do not depend on it.
        limit_images: train on this many images, drawn at random without replacement from the training split.
        download: whether a download is allowed.
        or_blank: without a download, take blank images of the published number and size for a data set that is not
            here and whose `root` nobody named.

    Raises:
        UnknownNameError: no data set of that name.
        InvalidValueError: a limit below 1 or above the number of training images, or a seed below 0.
        DataError: files that are missing, damaged, mis-shaped, or that try to run code.
    """
    from vdvae_patch.data.images import assemble

    dataset = DATASETS.get(name)
    try:
        splits = dataset.read(None if root is None else Path(root).expanduser(), download=download)
    except DataError:
        if not or_blank or root is not None or dataset.published is None:
            raise
        from vdvae_patch.data.blank import blank_splits

        splits = blank_splits(name, dataset.published, two_values=dataset.two_values)
    key = parse_spec(name, DATASETS.kind)[0]
    full_name = name.strip().replace(key, DATASETS.canonical(key), 1)
    return assemble(full_name, splits, seed=seed, limit_images=limit_images)


@DATASETS.register("cifar10")
class Cifar10(DataSet):
    """CIFAR-10, 32x32 RGB, 45,000 + 5,000 + 10,000 images; downloaded unless --data-root has it"""

    published = Published(45_000, 32, 32, 3)

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import cifar10

        return cifar10.read(root, download=download)


@DATASETS.register("imagenet32")
class ImageNet32(DataSet):
    """ImageNet at 32x32: imagenet32-train.npy and imagenet32-valid.npy in --data-root"""

    published = Published(1_276_149, 32, 32, 3)

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import arrays

        return arrays.read_imagenet(root, size=32)


@DATASETS.register("imagenet64")
class ImageNet64(DataSet):
    """ImageNet at 64x64: imagenet64-train.npy and imagenet64-valid.npy in --data-root"""

    published = Published(1_276_149, 64, 64, 3)

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import arrays

        return arrays.read_imagenet(root, size=64)


@DATASETS.register("ffhq256", "ffhq_256")
class Ffhq256(DataSet):
    """FFHQ at 256x256, 5-bit targets: ffhq-256.npy in --data-root"""

    published = Published(63_000, 256, 256, 3)

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import arrays

        return arrays.read_ffhq256(root)


@DATASETS.register("ffhq1024", "ffhq_1024")
class Ffhq1024(DataSet):
    """FFHQ at 1024x1024: folders train and valid of PNG images in --data-root or its folder ffhq1024"""

    published = Published(65_000, 1024, 1024, 3)

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import folder

        return folder.read_ffhq1024(root)


@DATASETS.register("images")
class Images(DataSet):
    """any folder of square images of one size, below --data-root"""

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import folder

        return folder.read_images(root)


@DATASETS.register("arrays")
class Arrays(DataSet):
    """uint8 arrays [N, H, W, C] of any square size: train.npy, valid.npy and test.npy in --data-root"""

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import arrays

        return arrays.read_arrays(root)

    def labels(self, root: Path | None) -> Labels:
        from vdvae_patch.data import arrays

        return arrays.read_labels(root)


@DATASETS.register("builtin")
class Builtin(DataSet):
    """32x32 RGB images of shapes, gradients and textures, drawn by code from a seed; needs no files"""

    def __init__(self, train: float = 512, valid: float = 64, test: float = 64, seed: float = 0) -> None:
        self.train, self.valid, self.test, self.seed = train, valid, test, seed

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import builtin

        if root is not None:
            raise InvalidValueError(
                f"--data-root {root}: the data set builtin draws its images and reads none, so that yours would not be "
                "seen; name the one that reads them (--data images, arrays, cifar10, ...), or leave --data-root out"
            )
        return builtin.read(train=self.train, valid=self.valid, test=self.test, seed=self.seed)


@DATASETS.register("mnist")
class Mnist(DataSet):
    """MNIST, 28x28 grey, 50,000 + 10,000 + 10,000 images; downloaded unless --data-root has it"""

    published = Published(50_000, 28, 28, 1)

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import mnist

        return mnist.read(root, download=download, name="mnist")

    def labels(self, root: Path | None) -> Labels:
        from vdvae_patch.data.mnist_labels import of_training

        return of_training(root, "mnist")


@DATASETS.register("fashion-mnist", "fashion_mnist")
class FashionMnist(DataSet):
    """Fashion-MNIST, in MNIST's format; downloaded unless --data-root has it"""

    published = Published(50_000, 28, 28, 1)

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import mnist

        return mnist.read(root, download=download, name="fashion-mnist")

    def labels(self, root: Path | None) -> Labels:
        from vdvae_patch.data.mnist_labels import of_training

        return of_training(root, "fashion-mnist")


class _Binarized(DataSet):
    two_values = True
    published = Published(50_000, 28, 28, 1)
    source = "mnist"
    how: Binarization

    def __init__(self, seed: float = 0) -> None:
        self.seed = seed

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import binarized, mnist

        return binarized.binarize(mnist.read(root, download=download, name=self.source), self.how, self.seed)

    def labels(self, root: Path | None) -> Labels:
        from vdvae_patch.data.mnist_labels import of_training

        return of_training(root, self.source)


@DATASETS.register("mnist-thresholded")
class MnistThresholded(_Binarized):
    """MNIST in black and white, thresholded at half the range"""

    how: Binarization = "thresholded"

    def __init__(self) -> None:
        super().__init__()


@DATASETS.register("mnist-drawn-once")
class MnistDrawnOnce(_Binarized):
    """MNIST in black and white, each pixel drawn once by our seed; not the published file of such a draw"""

    how: Binarization = "drawn-once"


@DATASETS.register("mnist-drawn-anew")
class MnistDrawnAnew(_Binarized):
    """MNIST in black and white, training images drawn anew for every batch, the others once by a seed"""

    how: Binarization = "drawn-anew"


@DATASETS.register("fashion-mnist-drawn-anew")
class FashionMnistDrawnAnew(_Binarized):
    """Fashion-MNIST in black and white, drawn as mnist-drawn-anew"""

    source = "fashion-mnist"
    how: Binarization = "drawn-anew"


@DATASETS.register("frey-faces", "freyfaces")
class FreyFaces(DataSet):
    """Frey Faces, 28x20 grey, 1,565 + 200 + 200 images: freyfaces.npy in --data-root or its folder freyfaces"""

    published = Published(1_565, 28, 20, 1)

    def read(self, root: Path | None, *, download: bool) -> Splits:
        from vdvae_patch.data import frey_faces

        return frey_faces.read(root)
