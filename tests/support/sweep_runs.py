"""Runs as a sweep over two styles and three ratios leaves them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from apixo_nb.core.records import Image, Run, new_run
from apixo_nb.core.request import make_request

SIZES = {"1:1": (96, 96), "2:3": (64, 96), "3:2": (96, 64)}
HOOK = "https://hooks.example/apixo/5ecre7?token=5ecre7"


def drawn(folder: Path, style: str, ratio: str = "1:1", take: int = 1, count: int = 1, **changes: Any) -> Run:
    """A success with pictures on disk, all of them different."""
    run = planned(style, ratio, count).replace(take=take)
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for index in range(count):
        name = f"{run.run_id}-{index + 1}.png"
        colours = random.Random(name)
        size = SIZES[ratio]
        Pillow.new("RGB", size, tuple(colours.randrange(256) for _ in range(3))).save(folder / name)
        url = f"https://r2.example/{name}?X-Amz-Signature=5ecre7"
        images.append(Image(index=index, url=url, file=name, width=size[0], height=size[1], format="PNG"))
    known: dict[str, Any] = {
        "state": "success",
        "task_id": "task_1",
        "cost_micros": 350_000 * count,
        "cost_time_ms": 30_000,
        "images": tuple(images),
        "result_urls": tuple(image.url for image in images),
    }
    return run.replace(**{**known, **changes})


def planned(style: str, ratio: str = "1:1", count: int = 1, **variables: str) -> Run:
    request = make_request("a fox", aspect_ratio=ratio, num_images=count)
    return new_run(
        request,
        unit_price_micros=350_000,
        sandbox=False,
        prompt_template="a fox, {style}",
        variables={"style": style, **variables},
    )


def failed(style: str, ratio: str = "1:1", **changes: Any) -> Run:
    known: dict[str, Any] = {
        "state": "failed",
        "fail_code": "SensitiveContent",
        "fail_msg": "refused by the filter",
        "task_id": "task_2",
        "cost_micros": 0,
    }
    return planned(style, ratio).replace(**{**known, **changes})


def chosen(run: Run, index: int = 0, **choice: Any) -> Run:
    images = list(run.images)
    images[index] = images[index].model_copy(update=choice)
    return run.replace(images=tuple(images))
