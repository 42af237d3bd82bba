"""Which sprites are held out, and how one-coloured icons are painted; downloads nothing."""

import numpy as np

from training.demo.sprites import CLASSES, DRAWN_STYLES, STYLES, _paint, sprite_keys


def test_a_style_is_held_out_with_what_its_designers_drew_else():
    styles = [*STYLES, *DRAWN_STYLES, "game-icons-fox-0", "openclipart-png-3"]
    names = [f"sprite/{code}/{style}" for code in CLASSES.values() for style in styles]
    reserved = set()
    for number, code in enumerate(CLASSES.values()):
        (test,) = sprite_keys(names, number, held_out=True)
        training = sprite_keys(names, number, held_out=False)
        style = test.removeprefix(f"sprite/{code}/")
        family = {style} | {each for each, (_, designers) in DRAWN_STYLES.items() if designers == style}
        assert set(training) == {f"sprite/{code}/{each}" for each in set(styles) - family}
        reserved.add(style)
    assert reserved == set(STYLES)  # each is seen in training, on other classes


def test_a_painted_icon_is_filled_where_it_encloses_something():
    icon = np.zeros((40, 40, 4), np.uint8)
    icon[5:35, 5:35, 3] = 255
    icon[12:28, 12:28, 3] = 0  # a frame
    icon[18:22, 5:12, 3] = 0  # with a gap that is too narrow to let the outside in
    painted = _paint(icon, (200, 30, 40), (20, 60, 220))[8:-8, 8:-8]
    assert painted[8, 20].tolist() == [200, 30, 40, 255]
    assert painted[20, 20].tolist() == [20, 60, 220, 255]
    assert painted[2, 2, 3] == 0
