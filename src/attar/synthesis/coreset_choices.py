"""Settings of the methods that choose real images (herding, kcentre). Nothing here imports PyTorch."""

from attar.synthesis.method import MethodConfig, Needs


class Coreset(MethodConfig):
    """Choose real images by a teacher's features."""

    normalise_features: bool = False
    """Scale every image's features to length one before comparing them."""

    def needs(self) -> Needs:
        """Real images, which are stored as they are."""
        return super().needs() | Needs(real_images=True, stores_real_pixels=True)

    def real_per_image(self) -> int:
        """The stored image itself."""
        return 1
