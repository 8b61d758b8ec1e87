"""Words that a verb does not take are told in one sentence."""

import pytest

from attar.core.errors import AttarError
from attar.core.parser import Parser


@pytest.fixture
def parser() -> Parser:
    made = Parser("attar fetch", "Fetch something.")
    made.add_argument("name", metavar="ORG/NAME")
    made.add_argument("--out", metavar="FOLDER")
    made.add_argument("--private", action="store_true")
    return made


def test_options_and_words_come_in_any_order(parser: Parser):
    found = parser.parsed(["--private", "a/b", "--out", "runs/x"])
    assert (found.name, found.out, found.private) == ("a/b", "runs/x", True)
    assert parser.parsed(["--out", "runs/x", "a/b"]).name == "a/b"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a/b", "runs/my x"], "'attar fetch' takes ORG/NAME, and 'runs/my x' is one word too many; to write into that "
         "folder, add --out 'runs/my x'."),
        (["a/b", "--privat"], "'attar fetch' has no option --privat; did you mean --private?"),
        (["a/b", "--zzz=1"], "'attar fetch' has no option --zzz; see 'attar fetch --help'."),
        ([], "'attar fetch': the following arguments are required: ORG/NAME; see 'attar fetch --help'."),
        (["a/b", "--out"], "'attar fetch': argument --out: expected one argument; see 'attar fetch --help'."),
    ],
)  # fmt: skip
def test_wrong_words_are_one_sentence(parser: Parser, words: list[str], sentence: str):
    with pytest.raises(AttarError) as error:
        parser.parsed(words)
    assert str(error.value) == sentence


def test_a_verb_without_words_says_so():
    with pytest.raises(AttarError, match="'attar look' takes no words, and 'x' is one word too many; see 'attar look"):
        Parser("attar look", "Look.").parsed(["x"])
