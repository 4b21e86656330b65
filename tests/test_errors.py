from __future__ import annotations

import pickle

import pytest

from sdic_plugin import EditError, SDICError
from sdic_plugin.errors import LONGEST_MESSAGE, listed, printable, sentence_of, shorten


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def deep() -> list:
    inner: list = []
    for _ in range(100_000):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    "value",
    [
        "a" * 10**6,
        b"\x1b" * 10**6,
        "\x1b]0;title\x07\x1b[2J\n\u202e\udcff",
        10**5000,
        list(range(10**6)),
        {str(i): "\x1b" * 1000 for i in range(1000)},
        Broken(),
        deep(),
        float("nan"),
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_can_be_quoted(value):
    text = shorten(value)
    assert text.isprintable() and 0 < len(text) <= 100
    assert len(shorten(value, limit=20)) <= 20


def test_short_values_are_quoted_as_python_writes_them():
    assert [shorten(value) for value in ("warmth", 1.5, [1, 2], None)] == ["'warmth'", "1.5", "[1, 2]", "None"]
    assert shorten("a" * 200).startswith("'aaa") and shorten("a" * 200).endswith("aaa'")


def test_lists_name_the_first_and_count_the_rest():
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed([f"key{i}" for i in range(217)]) == "'key0', 'key1', 'key2' and 214 more"
    assert listed([]) == "none"
    assert len(listed(["x" * 1000] * 1000)) < 300


def test_what_a_terminal_obeys_is_escaped():
    assert printable("a\x1b[31m\r\n\x9b\u2028\udce4") == "a\\x1b[31m\\r\\n\\x9b\\u2028\\udce4"
    assert printable("Kätzchen 猫 …\n", keep="\n") == "Kätzchen 猫 …\n"


def test_no_message_is_long_or_holds_control_characters():
    message = str(EditError("The edit " + "\x1b[31m" * 10_000 + " is unknown: name one of this pipeline."))
    assert message.isprintable() and len(message) == LONGEST_MESSAGE
    assert message.startswith("The edit ") and message.endswith("name one of this pipeline.")
    assert str(pickle.loads(pickle.dumps(SDICError("What and why.")))) == "What and why."
    assert str(SDICError()) == ""


def test_the_systems_refusals_are_sentences():
    assert sentence_of(SDICError("Our own.")) == "Our own."
    assert sentence_of(OSError("The file cannot be written.")) == "The file cannot be written."
    refusal = "the system refused to read or write"
    assert sentence_of(OSError(28, "No space left on device")) == f"{refusal}: No space left on device."
    assert sentence_of(OSError(13, "Permission denied", "a.png")) == f"{refusal} 'a.png': Permission denied."
