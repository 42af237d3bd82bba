"""How long sentences are counted, and how help texts begin."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from documentation.prose import (
    MEDIAN_LIMIT,
    NINETIETH_LIMIT,
    NOT_A_BEGINNING,
    Lengths,
    bad_docstrings,
    documents,
    main,
    measure,
    modules,
    sentences,
)
from segrefine.cli import main as program


def test_a_sentence_ends_at_its_full_stop_and_at_the_end_of_its_paragraph():
    assert sentences("One. Two!\nGoes on.\n\nThree\n\n- Four.\n- Five\n  goes on.") == [
        "One.", "Two!", "Goes on.", "Three", "Four.", "Five goes on.",
    ]  # fmt: skip


def test_tables_code_headings_and_pictures_are_no_prose():
    page = [
        "# A heading",
        "```console\n$ ls\n```",
        "| a | b |\n|---|---|",
        "    x ← y",
        "![a picture](x.png)",
        "It is. <!-- no -->",
    ]
    assert sentences("\n\n".join(page)) == ["It is."]


def test_a_link_counts_by_its_text_and_code_as_one_word():
    (found,) = sentences("See [the page](a/very/long/path.md) and `segrefine refine photo.png mask.png`.")
    assert len(found.split()) == 5


def test_abbreviations_and_decimals_do_not_end_a_sentence():
    assert len(sentences("Farbman et al. 2008 gave .749 and 1.5 e.g. Here it ends.")) == 1


def test_percentiles():
    assert Lengths((1, 2, 3, 4, 100)).median == 3
    assert Lengths(tuple(range(1, 101))).ninetieth == 90


def test_the_documents_keep_to_the_limits(capsys):
    assert main([]) == 0
    assert "in all" in capsys.readouterr().out


def test_long_sentences_fail(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(" ".join(["word"] * (NINETIETH_LIMIT + 1)) + ".\n")
    assert main([str(page), "--longest", "1"]) == 1
    assert "word word" in capsys.readouterr().out
    assert measure([page])[page].median > MEDIAN_LIMIT


def test_docstrings_begin_with_a_verb_or_a_noun():
    assert [(path, each) for path in modules() for each in bad_docstrings(path)] == []


@pytest.mark.parametrize("word", sorted(NOT_A_BEGINNING))
def test_a_docstring_that_begins_otherwise_is_found_wherever_it_is(word, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        f'"""{word} a module."""\n\n\nclass A:\n    """{word}: a class."""\n\n'
        f'    async def _b(self):\n        """{word} a method.\n\n        More.\n        """\n\n\n'
        'def c():\n    """Return what is fine."""\n\n\ndef d():\n    pass\n'
    )
    assert bad_docstrings(path) == [f"1: {word} a module.", f"5: {word}: a class.", f"8: {word} a method."]


def test_private_modules_of_all_folders_are_checked():
    assert {"segrefine", "training", "benchmarks"} <= {parent.name for path in modules() for parent in path.parents}


def test_every_page_is_measured():
    assert {"README.md", "tutorial.md", "method.md"} <= {path.name for path in documents()}


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, by the words that one types."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield " ".join([*words, name]), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


def help_texts() -> list[tuple[str, str]]:
    found = [("segrefine", program.help or "")]
    for name, command in commands(program):
        found += [(name, command.help or ""), (f"{name} (short)", command.get_short_help_str(200))]
        found += [
            (f"{name} {parameter.opts[0]}", parameter.help or "")
            for parameter in command.params
            if isinstance(parameter, click.Option) and not parameter.hidden
        ]
    return found


@pytest.mark.parametrize(("where", "text"), help_texts(), ids=lambda each: each[:40])
def test_help_begins_with_what_it_is_or_does(where, text):
    words = text.split()
    assert words, f"{where} has no help"
    assert words[0][0].isupper() or not words[0][0].isalpha(), f"{where}: {text}"
    assert words[0].strip(".,:;") not in NOT_A_BEGINNING, f"{where}: {text}"
