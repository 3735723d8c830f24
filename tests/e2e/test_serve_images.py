"""Images in chat-completions requests: the answers of transformers, and what is refused."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from PIL import Image
from test_serve import Served, serving
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tierline.testing.tiny_images import chat_template, pil_processor, write_image, write_seeing


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return write_image(folder / "wide.png", 61, 37), write_image(folder / "tall.jpg", 43, 53, seed=1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = write_seeing(tmp_path_factory.mktemp("seeing"), "smolvlm", dtype="float32", chat=True)
    with serving(folder, 900_000) as found:
        yield found


def data_url(path: Path, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def message(text: str, *urls: str) -> dict[str, Any]:
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def ask(served: Served, said: Any, new: int = 6) -> str:
    with served.client as client:
        answer = client.chat.completions.create(
            model=served.folder.name, messages=[said], max_tokens=new, temperature=0
        )
    return str(answer.choices[0].message.content)


def expected(served: Served, text: str, images: tuple[Path, ...], new: int) -> str:
    tokenizer: Any = AutoTokenizer.from_pretrained(served.folder)
    turns: Any = [
        {"role": "user", "content": [*[{"type": "image"}] * len(images), {"type": "text", "text": text}]}
    ]
    rendered = tokenizer.apply_chat_template(turns, chat_template=chat_template("smolvlm"), tokenize=False)
    shown = [Image.open(path).convert("RGB") for path in images] or None
    inputs = pil_processor("smolvlm", tokenizer)(text=rendered, images=shown, return_tensors="pt")
    model: Any = AutoModelForImageTextToText.from_pretrained(served.folder, dtype=torch.float32)
    made = model.generate(**inputs, max_new_tokens=new, do_sample=False)
    answer = made[0, inputs["input_ids"].shape[1] :].tolist()
    return str(tokenizer.decode(answer, skip_special_tokens=True))


def test_requests_with_and_without_images_get_the_answers_of_transformers(
    served: Served, pictures: tuple[Path, Path]
) -> None:
    asked = [("t3 t4", pictures[:1]), ("t9", ()), ("t17 t5", pictures[1:])]

    def one(asked: tuple[str, tuple[Path, ...]]) -> str:
        text, images = asked
        return ask(served, message(text, *[data_url(path, path.suffix[1:]) for path in images]))

    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(one, asked))
    assert answers == [expected(served, text, images, 6) for text, images in asked]
    assert not served.faults


def test_images_that_are_none_or_elsewhere_are_refused(
    served: Served, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    Image.new("1", (4000, 4000)).save(large)
    no_image = base64.b64encode(b"nothing to see here").decode()
    for urls, why in (
        (["http://127.0.0.1/cat.png"], "this server fetches nothing"),
        (["file:///etc/passwd"], "this server fetches nothing"),
        (["data:text/html;base64,AAAA"], "want data:image/TYPE"),
        (["data:image/png;base64,@@@@"], "base64|Only"),
        ([f"data:image/png;base64,{no_image}"], "an image: is none of PNG"),
        ([data_url(large)], "4,000 x 4,000 pixels, more than"),
        ([data_url(path) for path in pictures], "2 images, and room was kept for 1"),
    ):
        with pytest.raises(openai.BadRequestError, match=why):
            ask(served, message("t3", *urls))
    with pytest.raises(openai.APIStatusError) as refused:
        ask(served, message("t3", "data:image/png;base64," + "A" * 8_000_000))
    assert refused.value.status_code in (400, 413)
    assert ask(served, message("t5"))
    assert not served.faults
