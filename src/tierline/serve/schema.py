"""What a chat-completions request may say; what this server does not do is refused, not ignored."""

import re
from base64 import b64decode
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MOST_TURNS = 4096
MOST_STOPS, MOST_STOP = 16, 1024
MOST_IMAGE_BYTES = 2**22
MOST_URL = 64 + 4 * MOST_IMAGE_BYTES // 3  # an image in base64, and what it is
_TYPES = ("png", "jpeg", "webp", "gif", "bmp")
_DATA_URL = re.compile(rf"data:image/({'|'.join(_TYPES)}|jpg);base64,")
_SEEDS = 2**63


class TextPart(BaseModel):
    """Text in a message."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """An image in the request itself; `detail` is what others choose a size by, and changes nothing here."""

    model_config = ConfigDict(extra="forbid")
    url: Annotated[str, Field(max_length=MOST_URL)]
    detail: Literal["auto", "low", "high"] | None = None

    @field_validator("url")
    @classmethod
    def in_the_request(cls, url: str) -> str:
        """Refuse what would have to be fetched, and what is no image."""
        if not url.startswith("data:"):
            raise ValueError("images are taken as data: URLs only: this server fetches nothing")
        if not _DATA_URL.match(url):
            raise ValueError(f"want data:image/TYPE;base64,DATA with TYPE of {', '.join(_TYPES)}")
        return url

    def data(self) -> bytes:
        """Return the image's file; raise ValueError where it is no base64."""
        return b64decode(self.url.partition(",")[2], validate=True)


class ImagePart(BaseModel):
    """An image in a message."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=MOST_TURNS)]
    name: str | None = None

    @property
    def turn(self) -> dict[str, str]:
        """The turn as a chat template takes it; a developer's is the system's."""
        parts = [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        return {"role": "system" if self.role == "developer" else self.role, "content": text}

    @property
    def images(self) -> list[ImageUrl]:
        """Its images, in order; a model sees them before the text."""
        parts = [] if isinstance(self.content, str) else self.content
        return [part.image_url for part in parts if isinstance(part, ImagePart)]


class StreamOptions(BaseModel):
    """What a stream has besides text."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


Stop = Annotated[str, Field(min_length=1, max_length=MOST_STOP)]


class ChatRequest(BaseModel):
    """A request; the fields with one value each are there for clients that always send them."""

    model_config = ConfigDict(extra="forbid")
    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_TURNS)]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-_SEEDS, lt=_SEEDS)] = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    response_format: "TextFormat | None" = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of the answer, None where that is not said."""
        return self.max_completion_tokens or self.max_tokens


class TextFormat(BaseModel):
    """The format of the answer: text."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
