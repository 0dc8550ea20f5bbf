"""The section `balance.generate` of params.yaml: the network that draws new training images of the smaller classes."""

from typing import Annotated

from pydantic import Field

from tumorboard.base.schema import Section


class Generate(Section):
    """How the networks that draw new images are fitted to a fold's training images."""

    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)]  # images per step
    lr: Annotated[float, Field(gt=0)]
    latent: Annotated[int, Field(ge=2)]  # length of an image's code
    width: Annotated[int, Field(ge=4)]  # channels next to the image
    min_images: Annotated[int, Field(ge=2)]  # fewest training images of a class that is to grow
