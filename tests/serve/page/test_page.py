"""The page in a real browser: drawn on, refined, compared, and told what is wrong."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serve.process import Service, running
from segrefine.assets import demo_samples
from segrefine.runtime.files.rle import decode_rle

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}
SAMPLE = "07-crown-spill"


def pick(page: Any, name: str = SAMPLE) -> None:
    page.click(f"[data-sample='{name}']")
    page.wait_for_selector("#paint:not([hidden])")
    page.wait_for_selector("#words[data-sample]")


def refine(page: Any) -> None:
    page.click("#run")
    page.wait_for_selector("#found:not([hidden])")
    page.wait_for_selector("#progress[hidden]", state="attached")


def download(page: Any, button: str) -> bytes:
    with page.expect_download() as event:
        page.click(button)
    return Path(event.value.path()).read_bytes()


def canvas(page: Any, name: str) -> NDArray[np.uint8]:
    """What a canvas shows, uint8 (H, W, 4)."""
    size, data = page.evaluate(
        """name => { const canvas = document.getElementById(name), {width, height} = canvas;
        return [[height, width], [...canvas.getContext("2d").getImageData(0, 0, width, height).data]]; }""",
        name,
    )
    return np.array(data, np.uint8).reshape(*size, 4)


def expected_mask(service: Service, name: str, label: str) -> NDArray[np.bool_]:
    files = {kind: (demo_samples() / f"{kind}s" / f"{name}.png").read_bytes() for kind in ("image", "mask")}
    with service.http(headers={"Accept": "image/png"}) as http:
        answer = http.post("/v1/refine", files=files, data={"label": label})
    return np.asarray(Image.open(io.BytesIO(answer.content))) > 0


def test_whole_flow(page: Any, service: Service) -> None:
    name, word = "02-car-erode", "car"  # the model knows it, so there are rounds
    pick(page, name)
    assert page.input_value("#words") == word
    refine(page)
    mask = np.asarray(Image.open(io.BytesIO(download(page, "#save-png")))) > 127
    mask = mask if mask.ndim == 2 else mask[..., 0]
    np.testing.assert_array_equal(mask, expected_mask(service, name, word))
    rle = json.loads(download(page, "#save-rle"))
    np.testing.assert_array_equal(decode_rle(rle), mask)
    oracle = pytest.importorskip("pycocotools.mask")
    assert rle["counts"] == oracle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert word in page.inner_text("#facts") and "IoU" in page.inner_text("#facts")
    assert page.locator("#rounds figure").count() == 3


def test_views_show_other_pixels(page: Any) -> None:
    pick(page)
    refine(page)
    seen = []
    for view in ("mask", "probability", "uncertainty"):
        page.locator(f"input[name=view][value={view}]").check(force=True)
        seen.append(canvas(page, "after"))
    image = np.asarray(Image.open(demo_samples() / "images" / f"{SAMPLE}.png").convert("RGB")).astype(int)
    changed = np.abs(seen[0][..., :3].astype(int) - image).max(-1) > 8
    assert 0.05 < changed.mean() < 0.6  # the tint, and nothing else
    assert (seen[1] != seen[2]).any() and (seen[0] != seen[1]).any()


def test_slider_parts_before_from_after(page: Any) -> None:
    pick(page)
    refine(page)
    assert (canvas(page, "before") != canvas(page, "after")).any()
    box = page.locator("#compare").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
    assert 70 < int(page.input_value("#split")) < 90
    page.focus("#split")
    before = page.input_value("#split")
    page.keyboard.press("ArrowLeft")
    assert int(page.input_value("#split")) == int(before) - 1
    clip = page.evaluate("getComputedStyle(document.getElementById('before')).clipPath")
    assert "inset" in clip


def drag(page: Any, *places: tuple[float, float]) -> None:
    box = page.locator("#paint").bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=5)
    page.mouse.up()


def painted(page: Any) -> NDArray[np.bool_]:
    """Where the picture shows the mask's colour over it."""
    plain = np.asarray(Image.open(demo_samples() / "images" / f"{SAMPLE}.png").convert("RGB")).astype(int)
    return np.abs(canvas(page, "paint")[..., :3].astype(int) - plain).max(-1) > 8


def test_tools(page: Any) -> None:
    pick(page)
    page.click("#clear")
    assert not painted(page).any()
    page.click("[data-tool=brush]")
    drag(page, (0.2, 0.5), (0.8, 0.5))
    brushed = painted(page)
    assert brushed[64, 30:100].all() and not brushed[20].any()
    page.click("[data-tool=eraser]")
    drag(page, (0.5, 0.3), (0.5, 0.7))
    assert not painted(page)[64, 64] and painted(page)[64, 40]
    page.click("#undo")
    np.testing.assert_array_equal(painted(page), brushed)
    page.click("#clear")
    page.click("[data-tool=box]")
    drag(page, (0.25, 0.25), (0.75, 0.5))
    assert painted(page)[32, 40:90].all() and not painted(page)[38:58, 38:90].any()  # an outline
    drag(page, (0.9, 0.9))  # a click is no box
    assert not painted(page)[100:].any()
    page.click("#undo")
    assert not painted(page).any()
    for tool in ("point", "off"):
        page.click(f"[data-tool={tool}]")
        drag(page, (0.5, 0.5))
        assert painted(page)[64, 64] and 20 < painted(page).sum() < 400
        page.click("#clear")


def sent(page: Any) -> dict[str, list[str]]:
    """The fields of the request that a press of the button sends, but for files."""
    page.evaluate(
        """() => { const append = window.fetch; window.sent = [];
        window.fetch = (path, options) => {
          const body = options?.body instanceof FormData ? [...options.body] : null;
          if (body) window.sent.push(body.map(([name, value]) => [name, value instanceof Blob ? "file" : value]));
          return append(path, options);
        }; }"""
    )
    refine(page)
    fields: dict[str, list[str]] = {}
    for key, text in page.evaluate("window.sent.at(-1)"):
        fields.setdefault(key, []).append(text)
    return fields


def test_box_and_points_are_sent_as_on_the_command_line(page: Any, service: Service) -> None:
    name = "02-car-erode"
    pick(page, name)
    page.click("#clear")
    page.click("[data-tool=box]")
    drag(page, (0.5, 0.4), (0.85, 0.75))
    page.click("[data-tool=point]")
    drag(page, (0.66, 0.58))
    page.click("[data-tool=off]")
    drag(page, (0.3, 0.7))
    assert page.is_disabled("#add") and "Outside of all boxes" in page.inner_text("#hint")
    fields = sent(page)
    assert fields["label"] == ["car"] and "mask" not in fields and "scribble" not in fields
    (box,) = ([float(each) for each in text.split(",")] for text in fields["box"])
    shown = page.locator("#paint").bounding_box()  # the square picture stands in its middle
    scale, left = shown["height"] / 128, (shown["width"] - shown["height"]) / 2
    right = (0.85 * shown["width"] - left) / scale
    np.testing.assert_allclose(box, [64, 51.2, right, 96], atol=0.5)
    assert [text.split(",")[2] for text in fields["point"]] == ["1", "0"]
    image = (demo_samples() / "images" / f"{name}.png").read_bytes()
    with service.http(headers={"Accept": "image/png"}) as http:
        marks = {"label": "car", "box": fields["box"], "point": fields["point"]}
        answer = http.post("/v1/refine", files={"image": image}, data=marks)
    expected = np.asarray(Image.open(io.BytesIO(answer.content))) > 0
    mask = np.asarray(Image.open(io.BytesIO(download(page, "#save-png"))).convert("L")) > 127
    np.testing.assert_array_equal(mask, expected)
    page.click("[data-tool=brush]")
    drag(page, (0.65, 0.6), (0.7, 0.6))
    assert sent(page)["scribble"] == ["file"]


def test_several_objects(page: Any) -> None:
    pick(page, "02-car-erode")
    page.click("#add")
    assert page.is_disabled("[data-tool=box]") and page.is_visible("#remove")
    page.click("#run")
    page.wait_for_selector("#problem[data-code=no_mask]")
    drag(page, (0.2, 0.4), (0.3, 0.6))
    page.click("#run")
    page.wait_for_selector("#problem[data-code=no_name]")
    page.fill("#words", "boat")
    page.keyboard.press("Tab")
    assert page.locator("#objects label").all_inner_texts() == ["car", "boat"]
    page.locator("#objects input").first.check(force=True)
    assert page.input_value("#words") == "car"
    page.click("#undo")  # the last stroke was on the boat
    assert page.input_value("#words") == "boat"
    drag(page, (0.2, 0.4), (0.3, 0.6))
    fields = sent(page)
    assert fields["label"] == ["car", "boat"] and len(fields["mask"]) == 2
    assert page.locator("#phrases label").all_inner_texts() == ["car", "boat"]
    assert "boat:" in page.inner_text("#facts")
    page.click("#remove")
    assert page.is_hidden("#remove") and page.input_value("#words") == "car" and page.is_enabled("[data-tool=box]")


def test_presets(page: Any) -> None:
    pick(page, "02-car-erode")
    page.wait_for_selector("#preset option", state="attached")
    assert page.locator("#preset option").all_text_contents() == ["default", "fast", "paper"]
    assert "preset" not in sent(page)
    page.select_option("#preset", "fast")
    assert sent(page)["preset"] == ["fast"]


def test_links_lead_to_documentation_and_source(page: Any) -> None:
    links = {each.inner_text(): each.get_attribute("href") for each in page.locator("nav a").all()}
    assert links["API"] == "docs"
    declared = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    for name in ("Documentation", "Source"):
        assert f'{name} = "{links[name]}"' in declared


def test_photographs_come_first(page: Any) -> None:
    names = [each.get_attribute("data-sample") for each in page.locator("[data-sample]").all()]
    assert len(names) == 20 and names[0] == "cow" and names[8].startswith("01-")
    pick(page, "sheep")
    refine(page)
    assert "sheep" in page.inner_text("#facts") and "where 1 is unchanged" in page.inner_text("#facts")


def test_keyboard_alone(page: Any) -> None:
    page.focus(f"[data-sample='{SAMPLE}']")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#words[data-sample='{SAMPLE}']")
    page.focus("#clear")
    page.keyboard.press("Enter")
    page.focus("#paint")
    for key in ("p", "ArrowUp", "Space", "ArrowRight", "Space"):
        page.keyboard.press(key)
    assert page.get_attribute("[data-tool=point]", "aria-pressed") == "true"
    assert painted(page).any()
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    for key in ("x", "Space", *["ArrowRight"] * 6, *["ArrowDown"] * 6, "Space"):
        page.keyboard.press(key)
    assert page.get_attribute("[data-tool=box]", "aria-pressed") == "true"
    page.focus("#words")
    page.keyboard.press("Enter")
    page.wait_for_selector("#found:not([hidden])")


def test_guard(page: Any) -> None:
    pick(page, "06-boat-chunks")
    page.fill("#words", "guitar")
    refine(page)
    page.locator("#facts", has_text="confidence").wait_for()
    assert "does not trust" in page.inner_text("#warnings")
    guarded = canvas(page, "after")
    page.uncheck("#guard")
    refine(page)
    page.locator("#facts", has_not_text="confidence").wait_for()
    assert (canvas(page, "after") != guarded).any()
    page.locator("input[name=method][value=segment]").check(force=True)
    assert page.is_hidden("#guard")


def test_phrases_can_be_found_by_another_model(page: Any) -> None:
    pick(page)
    assert page.is_hidden("#model")  # one model refines
    page.locator("input[name=method][value=segment]").check(force=True)
    assert page.locator("#model option").all_inner_texts() == ["demo-gs", "demo-words"]
    page.select_option("#model", "demo-words")
    page.fill("#words", "the crown")
    with page.expect_response("**/v1/segment") as answer:
        refine(page)
    assert answer.value.ok
    page.wait_for_selector("#phrases label")
    assert page.is_hidden("#problem")


def test_phrases(page: Any) -> None:
    pick(page)
    page.locator("input[name=method][value=segment]").check(force=True)
    page.fill("#words", "")
    page.evaluate(
        """() => { const data = new DataTransfer();
        data.setData("text", "the crown\\nthe rocket");
        const event = new ClipboardEvent("paste", { clipboardData: data, cancelable: true });
        document.getElementById("words").dispatchEvent(event);
        }"""
    )
    assert page.input_value("#words") == "the crown, the rocket"
    page.fill("#words", "the crown; the rocket,")
    page.click("#run")
    page.wait_for_selector("#phrases label")
    assert page.locator("#phrases label").all_inner_texts() == ["the crown", "the rocket"]
    first = canvas(page, "after")
    page.locator("#phrases input").nth(1).check(force=True)
    assert (canvas(page, "after") != first).any()
    page.click("#again")
    assert page.is_checked("input[name=method][value=refine]") and painted(page).any()


def test_what_is_missing_is_told(page: Any) -> None:
    page.fill("#words", "fox")
    page.click("#run")
    assert "no picture yet" in page.inner_text("#problem")
    pick(page)
    page.click("#clear")
    page.click("#run")
    assert "no mask yet" in page.inner_text("#problem")
    page.locator("input[name=method][value=segment]").check(force=True)
    page.fill("#words", " ; ,")
    page.click("#run")
    assert "no phrase yet" in page.inner_text("#problem")


def test_problem_of_the_service_is_told(page: Any) -> None:
    pick(page)
    page.fill("#words", "fox " * 300)
    page.click("#run")
    page.wait_for_selector("#problem[data-code=bad_prompt]")
    assert len(page.inner_text("#problem")) > 20
    page.fill("#words", "crown")
    refine(page)
    assert page.is_hidden("#problem")


def test_picture_that_is_none(page: Any, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "x.png")
    page.wait_for_selector("#problem[data-code=bad_image]")
    assert "x.png" in page.inner_text("#problem")


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_problem_is_seen_on_a_phone(page: Any) -> None:
    page.fill("#words", "fox")
    page.tap("#run")
    page.wait_for_selector("#problem[data-code=no_image]")
    bottom = page.evaluate("document.getElementById('problem').getBoundingClientRect().bottom - innerHeight")
    assert bottom <= 1  # of a pixel, a part may be cut


def test_key(page: Any, tmp_path: Path) -> None:
    with running(tmp_path, "demo", environment={"SEGREFINE_SERVE_API_KEY": "right"}) as guarded:
        page.goto(guarded.url)
        for key, title in (("wrong", "asks for its key"), ("right", "not this service's key")):
            page.wait_for_selector(f"#key[open] >> text={title}")
            page.fill("#key-text", key)
            page.keyboard.press("Enter")
        page.wait_for_selector("#key:not([open])", state="attached")
        page.wait_for_selector("#vocabulary >> text=demo knows")
        ours = (guarded.url, "the server responded with a status of 401")
        page.complaints[:] = [each for each in page.complaints if not any(part in each for part in ours)]


def test_own_picture(page: Any, tmp_path: Path) -> None:
    picture = np.zeros((90, 160, 3), np.uint8)
    picture[20:70, 50:110] = (200, 40, 40)
    Image.fromarray(picture).save(tmp_path / "own.png")
    page.set_input_files("#file", tmp_path / "own.png")
    page.wait_for_selector("#paint:not([hidden])")
    page.click("[data-tool=box]")
    drag(page, (0.3, 0.2), (0.7, 0.8))
    page.fill("#words", "apple")
    refine(page)
    assert canvas(page, "after").shape == (90, 160, 4)


def test_stop(page: Any, service: Service) -> None:
    pick(page)
    page.locator("input[name=method][value=segment]").check(force=True)
    page.fill("#words", ", ".join(["the crown"] * 200))
    page.click("#run")
    page.wait_for_selector("#progress:not([hidden])")
    assert page.inner_text("#run") == "Stop"
    page.click("#run")
    page.wait_for_selector("#progress[hidden]", state="attached")
    assert page.is_hidden("#problem") and page.inner_text("#run") == "Find"


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_phone(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    pick(page)
    page.locator("#paint").tap(position={"x": 100, "y": 100})
    page.tap("#run")
    page.wait_for_selector("#found:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(22, 21, 26)"  # dark, as the phone is
    for name in ("#run", "#save-png", "[data-tool=brush]"):
        assert page.locator(name).bounding_box()["height"] >= 40  # a finger's


def test_first_paint(page: Any) -> None:
    page.reload()
    page.wait_for_selector("[data-sample]")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert 0 < painted < 1000


def test_documentation(page: Any, service: Service) -> None:
    page.goto(service.url + "/docs")
    page.wait_for_selector("text='/v1/segment'")
    assert page.locator("section.card").count() >= 6


def mask_file(folder: Path, name: str, picture: Image.Image) -> Path:
    picture.save(folder / name)
    return folder / name


def canvas_after_change(page: Any, before: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the painted canvas shows once it shows something else than before."""
    for _ in range(600):
        if ((now := canvas(page, "paint")) != before).any():
            return now
        page.wait_for_timeout(100)
    raise AssertionError("no mask was drawn")


def test_a_mask_is_loaded_as_the_service_reads_it(page: Any, tmp_path: Path) -> None:
    pick(page)
    drawn = np.zeros((128, 128), bool)
    drawn[20:60, 30:90] = True
    black = np.zeros((128, 128, 4), np.uint8)
    black[drawn, 3] = 255
    files = {
        "black on transparent": mask_file(tmp_path, "a.png", Image.fromarray(black)),
        "an index": mask_file(tmp_path, "b.png", Image.fromarray(drawn * np.uint8(15))),
        "a GIF": mask_file(tmp_path, "c.gif", Image.fromarray(black)),
    }
    np.save(tmp_path / "d.npy", drawn)
    page.click("#clear")
    empty = canvas(page, "paint")
    page.set_input_files("#mask-file", tmp_path / "d.npy")
    first = canvas_after_change(page, empty)
    for how, file in files.items():
        page.click("#clear")
        np.testing.assert_array_equal(canvas(page, "paint"), empty)
        page.set_input_files("#mask-file", file)
        np.testing.assert_array_equal(canvas_after_change(page, empty), first, err_msg=how)
    page.fill("#words", "crown")
    refine(page)


def test_a_mask_that_does_not_fit_is_refused_in_words(page: Any, tmp_path: Path) -> None:
    pick(page)
    page.set_input_files("#mask-file", mask_file(tmp_path, "a.png", Image.new("L", (9, 7))))
    page.wait_for_selector("#problem:not([hidden])")
    assert "Expected a mask of 128×128 pixels" in page.inner_text("#problem")
    indices = Image.fromarray((np.arange(128 * 128) % 3).astype(np.uint8).reshape(128, 128))
    page.set_input_files("#mask-file", mask_file(tmp_path, "b.png", indices))
    page.wait_for_selector("#problem:has-text('0, 1 and 2')")
    page.complaints.clear()  # Chromium writes a line for an answer of 422


def test_a_second_dropped_file_of_the_same_size_is_the_mask(page: Any, tmp_path: Path) -> None:
    pick(page)
    page.click("#clear")
    empty = canvas(page, "paint")
    mask_file(tmp_path, "a.png", Image.fromarray(np.eye(128, dtype=np.uint8) * 255))
    encoded = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    page.evaluate(
        """encoded => {
        const bytes = Uint8Array.from(atob(encoded), (each) => each.charCodeAt(0)), data = new DataTransfer();
        data.items.add(new File([bytes], "mask.png", { type: "image/png" }));
        document.getElementById("stage").dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }""",
        encoded,
    )
    changed = (canvas_after_change(page, empty) != empty).any(axis=-1)
    assert changed.any() and np.diag(changed)[5:-5].all()
