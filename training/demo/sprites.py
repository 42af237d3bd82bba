"""The sprites of demo scenes: emoji from npm, and for training clip art from Debian and icons painted in two colours.

Nothing here ships with segrefine. Fluent (Microsoft, MIT), Noto (Google, Apache-2.0), Twemoji (CC-BY 4.0), and for
training only Firefox OS (Apache-2.0), EmojiOne 1 and 2 (CC-BY-SA 4.0, CC-BY 4.0), OpenMoji (CC-BY-SA 4.0), Streamline
(CC-BY 4.0), game-icons.net (CC-BY 3.0), Material Design Icons (Apache-2.0), Phosphor (MIT), IconPark (Apache-2.0), Open
Clip Art (public domain) and Tux Paint's stamps (GPL-2).
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

CLASSES: dict[str, str] = {
    "fox": "1f98a", "car": "1f697", "apple": "1f34e", "tree": "1f333", "penguin": "1f427", "butterfly": "1f98b",
    "turtle": "1f422", "elephant": "1f418", "banana": "1f34c", "boat": "26f5", "cactus": "1f335", "guitar": "1f3b8",
    "mushroom": "1f344", "crown": "1f451", "umbrella": "2602-fe0f", "rocket": "1f680",
}  # fmt: skip
"""Class name → emoji code point: the sixteen things the demo model knows."""

_DISTRACTORS = """
    1f419 1f353 1f34d 1f420 1f68c 1f3e0 1f514 1f511 1f352 1f40c 1f955 1f433 1f388 1f3c6 1f350
    1f337 2693 1f3a9 1f43c 1f438 1f981 1f437 1f989 1f980 1f354 1f355 1f369 1f33b 23f0 1f4f7
"""
DISTRACTORS = tuple(_DISTRACTORS.split())
"""Emoji whose fragments clutter the backgrounds, so that "looks like a sprite" does not mean "is an object"."""

STYLES: dict[str, tuple[str, str]] = {
    "fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "assets/{code}.webp"),
    "noto": ("emoji-datasource-google@16.0.0", "img/google/64/{code}.png"),
    "twemoji": ("emoji-datasource-twitter@16.0.0", "img/twitter/64/{code}.png"),
}
"""Sprite style → (npm package, path of a sprite in it): the styles of which one per class is held out."""

DRAWN_STYLES: dict[str, tuple[str, str | None]] = {
    "fluent-flat": ("@iconify-json/fluent-emoji-flat@1.2.6", "fluent"),
    "noto-blob": ("@iconify-json/noto-v1@1.2.5", "noto"),
    "firefox": ("@iconify-json/fxemoji@1.2.2", None),
    "emojione-1": ("@iconify-json/emojione-v1@1.2.3", None),
    "emojione-2": ("@iconify-json/emojione@1.2.3", None),
    "openmoji": ("@iconify-json/openmoji@1.2.29", None),
    "streamline": ("@iconify-json/streamline-emojis@1.2.4", None),
}
"""Vector style, of training only → (npm package, the style by the same designers: held out together with it)."""

_DRAWN_NAMES: dict[str, tuple[str, ...]] = {
    "fox": ("fox", "fox-face", "fox-face-1"), "car": ("automobile",), "apple": ("red-apple", "redapple"),
    "tree": ("deciduous-tree",), "boat": ("sailboat",), "penguin": ("penguin", "penguin-1"),
    "cactus": ("cactus", "cactus-1"),
}  # fmt: skip
"""What the vector styles call a class, where it is not the name of the class itself."""

_ICONS: dict[str, tuple[str, dict[str, str]]] = {
    "game-icons": ("@iconify-json/game-icons@1.2.4", {
        "fox": "fox fox-head", "car": "city-car", "apple": "shiny-apple", "tree": "oak beech", "penguin": "penguin",
        "turtle": "sea-turtle turtle tortoise", "elephant": "elephant elephant-head", "banana": "banana banana-bunch",
        "boat": "sailboat", "cactus": "cactus cactus-pot", "guitar": "guitar", "mushroom": "mushroom super-mushroom",
        "crown": "crown queen-crown", "umbrella": "umbrella", "rocket": "rocket",
    }),
    "mdi": ("@iconify-json/mdi@1.2.3", {
        "car": "car car-side", "apple": "food-apple", "tree": "tree", "penguin": "penguin", "butterfly": "butterfly",
        "turtle": "turtle tortoise", "elephant": "elephant", "boat": "sail-boat", "cactus": "cactus",
        "guitar": "guitar-acoustic guitar-electric", "mushroom": "mushroom", "crown": "crown", "umbrella": "umbrella",
        "rocket": "rocket",
    }),
    "phosphor": ("@iconify-json/ph@1.2.2", {
        "car": "car-profile-fill", "tree": "tree-fill", "butterfly": "butterfly-fill", "cactus": "cactus-fill",
        "guitar": "guitar-fill", "crown": "crown-fill", "umbrella": "umbrella-fill", "rocket": "rocket-fill",
    }),
    "icon-park": ("@iconify-json/icon-park@1.2.4", {
        "tree": "tree", "butterfly": "butterfly", "elephant": "elephant", "banana": "banana", "umbrella": "umbrella",
        "rocket": "rocket",
    }),
}  # fmt: skip
"""Style of one-coloured icons → (npm package, the names it has for a class)."""

_PAINTS: dict[str, tuple[Colour, Colour]] = {
    "fox": ((230, 110, 30), (255, 245, 235)), "car": ((215, 40, 40), (170, 215, 240)),
    "apple": ((205, 30, 35), (255, 190, 180)), "tree": ((60, 140, 50), (120, 80, 45)),
    "penguin": ((45, 50, 65), (250, 250, 245)), "butterfly": ((240, 140, 20), (50, 40, 40)),
    "turtle": ((70, 140, 70), (150, 190, 90)), "elephant": ((140, 145, 160), (215, 205, 215)),
    "banana": ((245, 205, 50), (140, 100, 40)), "boat": ((150, 85, 45), (245, 245, 240)),
    "cactus": ((55, 130, 75), (160, 210, 120)), "guitar": ((190, 105, 40), (80, 45, 25)),
    "mushroom": ((210, 45, 40), (250, 240, 225)), "crown": ((240, 180, 40), (200, 40, 70)),
    "umbrella": ((125, 70, 185), (80, 150, 230)), "rocket": ((185, 195, 210), (215, 60, 50)),
}  # fmt: skip
"""Colours (RGB) of an icon and of what it encloses; it is painted both ways round."""

_CLIP_ART: dict[str, tuple[str, dict[str, str]]] = {
    "openclipart-png": ("usr/share/openclipart/png", {
        "fox": "animals/mammals/contour_fox.png",
        "car": """transportation/car_jamin_ellis_.png transportation/redcar_marcelo_caiafa_.png
            transportation/skoda_car_alejandro_teja_.png transportation/vehicles/car.png transportation/hummer_03.png
            transportation/sportcar_sergio_luiz_ara_01.png transportation/dodge_neon_green_ganson.png
            transportation/toyota_land_cruiser_ganson.png""",
        "apple": """food/fruit/an_apple_01.png food/fruit/cartoon_apple_k_yager_01.png food/fruit/another_apple_01.png
            food/fruit/apple_martin_schmidt-li_01r.png food/fruit/apple_with_worm_dan_gerh_01.png""",
        "tree": """plants/trees/cartoon_tree_01.png plants/trees/fall_coloured_tree_geral_01.png
            plants/trees/tree_whit_fruits_01.png plants/albero_architetto_france_01.png
            plants/arbre_modern_jean-victor_01.png signs_and_symbols/map_symbols/tree_-_rpg_map_elements_08.png
            signs_and_symbols/map_symbols/tree_-_rpg_map_elements_03.png""",
        "penguin": "animals/new_penguin_charles_mcco_01.png animals/emperor_penguin_ralf_ste_01.png",
        "butterfly": """animals/bugs/farfalla_butterfly_fra1.png animals/bugs/farfalla_semplice_archit_01.png
            animals/bugs/farfalla_contorno_archit_01.png animals/bugs/farfalla_stilizzata_arch_01.png
            animals/bugs/butterfly_jonvdveen_01.png animals/bugs/butterfly_jonathan_dietr_01.png
            animals/bugs/butterfly_from_star_thom_01.png""",
        "turtle": "animals/turtle_jurgen_gaeremyn_01.png",
        "elephant": "animals/mammals/contour_elephant.png",
        "banana": "food/fruit/bananas_nicu_buculei_01.png",
        "boat": "transportation/boating/sailboat_illustration.png",
        "cactus": "plants/cacuts_01.png",
        "guitar": """recreation/music/guitar_ganson.png recreation/music/guitar_profile_philippe__01.png
            recreation/music/electric_guitar_andrea__01r.png recreation/music/guitar_jarno_vasamaa1.png""",
        "mushroom": """plants/mushroom_benji_park_.png plants/mushroom.png plants/champignon_01.png
            plants/toadstool_daniel_steele_r.png""",
        "crown": "people/clothing/hats/bejewelled_crown_with_t_01.png",
        "umbrella": "tools/umbrella.png recreation/holiday/canada_umbrella_ganson.png",
        "rocket": "transportation/vehicles/rocket.png",
    }),
    "tuxpaint-stamps-default": ("usr/share/tuxpaint/stamps", {
        "fox": "animals/mammals/dogs/fox.png",
        "car": "vehicles/auto/sportscar.svg vehicles/auto/sportscar2.png vehicles/auto/sportscar3.svg",
        "apple": """food/fruit/apple_green.png food/fruit/apple_granny_smith.png food/fruit/apple_red.png
            food/fruit/apple_fuji.png food/fruit/cartoon/apple.png""",
        "tree": "plants/trees/tree336.png plants/trees/holm_oak.png",
        "penguin": "animals/birds/little-penguin.png animals/birds/penguin.png animals/birds/magellanic_penguin.png",
        "butterfly": "animals/insects/cartoon/butterfly.png animals/insects/cartoon/monarchbutterfly.svg",
        "elephant": "animals/mammals/elephant.png",
        "banana": "food/fruit/banana.png food/fruit/cartoon/banana.png",
        "boat": """vehicles/ship/walnutBoat.png vehicles/ship/chineseJunk.png vehicles/ship/sail_boat1.svg
            vehicles/ship/sail_boat2.svg""",
        "guitar": """hobbies/music/string/guitar_electric.png hobbies/music/string/guitar_electric_bass.png
            hobbies/music/string/guitar_electric_bass2.svg hobbies/music/string/guitar_classical.png
            hobbies/music/string/guitar2.png""",
        "mushroom": """food/vegetables/mushroom.png plants/mushrooms/cep.png plants/mushrooms/cep-1.png
            plants/mushrooms/cep-2.png""",
        "crown": "clothes/hats/crown1.svg clothes/hats/crown2.svg",
        "umbrella": "household/umbrella.svg",
        "rocket": "space/rocket1.svg space/rocket2.svg space/rocket3.svg space/rocket4.svg space/rocket5.svg",
    }),
}  # fmt: skip
"""Debian package of clip art → (its folder, the files that show a class)."""

SPRITE_SIDE = 96
_DRAWN_SIDE = 2 * SPRITE_SIDE


def sprite_keys(names: Iterable[str], number: int, *, held_out: bool) -> list[str]:
    """Return the sprites of `fetch_sprites` that show a class, in one split.

    Class number i has style i mod 3 of `STYLES` held out, with the vector style of the same designers, so that every
    style is seen in training, but not on every class.

    Args:
        names: of the sprites.
        number: of the class, in `CLASSES` order.
        held_out: the held-out split, else the training split.
    """
    of_class, reserved = f"sprite/{list(CLASSES.values())[number]}/", list(STYLES)[number % len(STYLES)]
    if held_out:
        return [of_class + reserved]
    family = {of_class + style for style, (_, designers) in DRAWN_STYLES.items() if designers == reserved}
    return sorted(name for name in names if name.startswith(of_class) and name not in family | {of_class + reserved})


def fetch_sprites(scratch: Path) -> dict[str, Image]:
    """All sprites, uint8 (h, w, 4) RGBA, as "sprite/<code point>/<style>"; needs `npm` and `apt-get`.

    Args:
        scratch: folder for the packages.
    """
    arrays = {}
    for style, (package, path) in tqdm(STYLES.items(), desc="sprites"):
        with _npm_package(scratch, package) as archive:
            for code in [*CLASSES.values(), *DISTRACTORS]:
                arrays[f"sprite/{code}/{style}"] = _crop(_decode(_member(archive, path.format(code=code))))
    for style, (package, _) in tqdm(DRAWN_STYLES.items(), desc="vector sprites"):
        icons = _icons(scratch, package)
        for name, code in CLASSES.items():
            if drawn := next(filter(None, (_draw_icon(icons, each) for each in _DRAWN_NAMES.get(name, (name,)))), None):
                arrays[f"sprite/{code}/{style}"] = _crop(_decode(drawn))
    return arrays | _fetch_icons(scratch) | _fetch_clip_art(scratch)


def _fetch_icons(scratch: Path) -> dict[str, Image]:
    arrays = {}
    for style, (package, classes) in tqdm(_ICONS.items(), desc="icons"):
        icons = _icons(scratch, package)
        for name, files in classes.items():
            for icon in files.split():
                drawn = _draw_icon(icons, icon)
                assert drawn, f"{package} has no {icon}"
                for index, paints in enumerate((_PAINTS[name], _PAINTS[name][::-1])):
                    arrays[f"sprite/{CLASSES[name]}/{style}-{icon}-{index}"] = _crop(_paint(_decode(drawn), *paints))
    return arrays


def _fetch_clip_art(scratch: Path) -> dict[str, Image]:
    arrays = {}
    for package, (folder, classes) in tqdm(_CLIP_ART.items(), desc="clip art"):
        unpack_debian(scratch, package)
        for name, files in classes.items():
            for index, file in enumerate(files.split()):
                path = scratch / package / folder / file
                encoded = _draw(path.read_text(errors="replace")) if path.suffix == ".svg" else path.read_bytes()
                arrays[f"sprite/{CLASSES[name]}/{package}-{index}"] = _crop(_decode(encoded))
    return arrays


def unpack_debian(scratch: Path, package: str) -> Path:
    """Unpacks a Debian package into the folder of its name in `scratch`."""
    subprocess.run(["apt-get", "download", package], cwd=scratch, check=True, capture_output=True)
    (archive,) = scratch.glob(f"{package}_*.deb")
    subprocess.run(["dpkg", "-x", archive.name, package], cwd=scratch, check=True)
    return scratch / package


def _npm_package(scratch: Path, package: str) -> tarfile.TarFile:
    packed = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=scratch, check=True, capture_output=True, text=True
    )
    return tarfile.open(scratch / packed.stdout.strip().splitlines()[-1])


def _member(archive: tarfile.TarFile, path: str) -> bytes:
    member = archive.extractfile("package/" + path)
    assert member is not None
    return member.read()


def _icons(scratch: Path, package: str) -> dict[str, Any]:
    """An Iconify collection."""
    with _npm_package(scratch, package) as archive:
        icons: dict[str, Any] = json.loads(_member(archive, "icons.json"))
    return icons


def _draw_icon(icons: dict[str, Any], name: str) -> bytes | None:
    """An icon of an Iconify collection, drawn as a PNG file; None if it is not there."""
    icon = icons["icons"].get(icons.get("aliases", {}).get(name, {}).get("parent", name))
    if icon is None:
        return None
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return _draw(
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )


def _draw(svg: str) -> bytes:
    from resvg_py import svg_to_bytes

    return bytes(svg_to_bytes(svg_string=svg, width=_DRAWN_SIDE, height=_DRAWN_SIDE))


def _decode(encoded: bytes) -> Image:
    """A PNG or WebP file with transparency as uint8 (h, w, 4) RGBA."""
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    assert picture.ndim == 3 and picture.shape[2] == 4, picture.shape
    shallow = picture if picture.dtype == np.uint8 else np.asarray(picture // 257, np.uint8)
    return np.ascontiguousarray(shallow[..., [2, 1, 0, 3]])


def _paint(icon: Image, line: Colour, fill: Colour) -> Image:
    """An icon in colour `line`, and what it encloses in `fill`; narrow gaps are closed."""
    border = 8
    ink = np.pad(icon[..., 3], border)
    closed = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    outside = np.where(closed > 127, 255, 0).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), (128,))
    solid = np.where(outside == 128, closed, 255)
    share = ink[..., None] / 255
    painted = np.array(line) * share + np.array(fill) * (1 - share)
    return np.concatenate([painted, np.maximum(solid, ink)[..., None]], -1).astype(np.uint8)


def _crop(sprite: Image) -> Image:
    """The sprite cut to its opaque part and scaled to `SPRITE_SIDE` pixels on its longer side, uint8 (h, w, 4) RGBA."""
    ys, xs = np.nonzero(sprite[..., 3] > 20)
    cut = sprite[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    scale = SPRITE_SIDE / max(cut.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(cut, None, fx=scale, fy=scale, interpolation=method), np.uint8)
