"""`python -m components`: exit codes that tell a bad input from a failure that may pass."""

import errno

import pytest

from components import __main__ as program
from components import codes
from components.errors import UserError


def failing(error):
    def run(root, settings):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("20 images are too few; add more"), 2, "20 images are too few; add more"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full; free some space and run again"),
        (KeyboardInterrupt(), 130, "resumes from the last checkpoint"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_code(error, code, said, monkeypatch, capsys):
    monkeypatch.setattr(codes, "run", failing(error))
    assert program.main(["extract_codes", "brick"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and lines[0].startswith("extract_codes@brick: ")


def test_another_os_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(codes, "run", failing(OSError(errno.EIO, "disk fault")))
    with pytest.raises(OSError, match="disk fault"):
        program.main(["extract_codes", "brick"])


@pytest.mark.parametrize("arguments", [[], ["augment"], ["nonsense", "brick"]])
def test_a_wrong_call_shows_the_stages(arguments, capsys):
    assert program.main(arguments) == 2
    assert "train_vqvae" in capsys.readouterr().err


def test_an_unknown_category_is_told_at_once(capsys):
    assert program.main(["augment", "brik"]) == 2
    assert "did you mean 'brick'?" in capsys.readouterr().err
