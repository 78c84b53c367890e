"""What is asked and answered, as the OpenAPI page and the checks of options have it."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from maskwise.data.formats.measurements import PIXELS, Scale

Format = Literal["rle", "polygons", "overlay", "labelme", "csv", "label_map"]
Side = Annotated[Scale, BeforeValidator(Scale.parse, json_schema_input_type=str)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Options(BaseModel):
    """Options of a prediction, as fields of the form or in the query; the form counts where both are given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_score: Share = Field(0.5, description="leave out instances whose class is less certain")
    min_quality: Share = Field(0.0, description="leave out instances whose mask is predicted to fit less well")
    format: Format = Field("rle", description="rle and polygons: masks inside a JSON answer; others: a file")
    pixel_size: Side | None = Field(None, description="side of a pixel, such as 0.325um: the unit of csv")

    @property
    def scale(self) -> Scale:
        """Of the measurements."""
        return self.pixel_size or PIXELS


class RunLengths(BaseModel):
    """COCO's compressed run lengths."""

    size: list[int] = Field(description="height and width of the picture")
    counts: str


class Polygon(BaseModel):
    """One connected part: x and y of its corners in turn, along the edges of pixels."""

    outer: list[float]
    holes: list[list[float]]


class Instance(BaseModel):
    class_: str = Field(alias="class")
    label: int = Field(description="position of the class in the model's list, from 0")
    score: float = Field(description="confidence in the class")
    quality: float = Field(description="predicted IoU of the mask with the object; 1 where a model predicts none")
    mask_score: float = Field(description="ranks masks; instances come best first by it")
    box: list[float] = Field(description="x0, y0, x1, y1 in pixels")
    area: int = Field(description="pixels of the mask")
    mask: RunLengths | list[Polygon]


class Error(BaseModel):
    code: str
    message: str


class Picture(BaseModel):
    """Of one picture: what was found, or why nothing could be."""

    index: int = Field(description="position in the request, from 0")
    width: int | None = None
    height: int | None = None
    exif_orientation: int | None = Field(
        None,
        description="2 to 8: the file was turned upright by it, and sizes and masks are those of the upright picture; "
        "left out where it was not",
    )
    instances: list[Instance] | None = None
    limit_reached: int | None = Field(
        None,
        description="there may be more instances: the model gives at most so many of a picture, or of a tile of a "
        "large one, and gave them all; left out where that was not so",
    )
    error: Error | None = None


class Prediction(BaseModel):
    model: str
    request_id: str
    pictures: list[Picture]


class Refusal(BaseModel):
    """The one shape of every failure."""

    error: Error
    request_id: str


class Category(BaseModel):
    label: int
    id: int = Field(description="as data sets of this model name it")
    name: str


class Bounds(BaseModel):
    body_bytes: int
    pixels: int
    pictures: int
    queue: int
    seconds: float


class Model(BaseModel):
    name: str
    categories: list[Category]


class Models(BaseModel):
    models: list[Model]
    limits: Bounds
    version: str


EXAMPLE = {
    "model": "nuclei",
    "request_id": "5f1c0a9be2d34788",
    "pictures": [
        {
            "index": 0,
            "width": 6,
            "height": 4,
            "instances": [
                {
                    "class": "nucleus",
                    "label": 0,
                    "score": 0.98,
                    "quality": 0.91,
                    "mask_score": 0.8918,
                    "box": [1.0, 1.0, 4.0, 3.0],
                    "area": 6,
                    "mask": {"size": [4, 6], "counts": "5220007"},
                }
            ],
        }
    ],
}
BUSY = {"error": {"code": "busy", "message": "64 of 64 places are taken"}, "request_id": "5f1c0a9be2d34788"}
