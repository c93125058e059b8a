"""Every command that the README and the docs quote is one that there is; the long ones are not run here."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from torch.distributed.run import get_args_parser

from components.settings import read_yaml
from components.stage import STAGES
from flows import cli
from tests.conftest import REPO

PAGES = sorted([REPO / "README.md", *(REPO / "docs").rglob("*.md"), *(REPO / "mlflow").glob("*.md")])
SHELLS = {"sh", "bash", "shell", "console"}
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
HELP = {"--help", "-h"}
KINTSUGI = typer.main.get_command(cli.app)


def fenced(page: str) -> Iterator[str]:
    """The command lines of a page's fenced shell blocks, continued lines joined."""
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        if language in SHELLS:
            yield from (line for line in block.replace("\\\n", " ").splitlines() if line.strip())


def inline(page: str) -> Iterator[str]:
    """What stands in backquotes in the text and starts with one of our programs."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    for quoted in re.findall(r"`([^`]+)`", text):
        words = " ".join(quoted.split()).removeprefix(".venv/bin/")
        if re.match(r"(kintsugi|make) ", words):
            yield words


def words_of(line: str) -> list[str]:
    """A command line's words, without its comment and the variables before it."""
    words = shlex.split(line.removeprefix("$ "), comments=True)
    while words and ASSIGNMENT.match(words[0]):
        words.pop(0)
    return words


def targets() -> set[str]:
    """The Makefile's targets."""
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, flags=re.MULTILINE))


def check_kintsugi(arguments: list[str]) -> None:
    """Parse a whole command line as the program would, and stop before it does anything."""
    group: Any = KINTSUGI
    name, *rest = arguments
    if name.startswith("-"):
        assert name in {"--version", *HELP}
        return
    assert name in group.commands, f"there is no `kintsugi {name}`"
    if not HELP & set(rest):
        group.commands[name].make_context(name, list(rest))


def check_mention(arguments: list[str]) -> None:
    """A command named in a sentence may leave arguments out, but not name what there is not."""
    group: Any = KINTSUGI
    name, *rest = arguments
    if name.startswith("-"):
        return
    assert name in group.commands, f"there is no `kintsugi {name}`"
    parameters = group.commands[name].params
    known = {option for one in parameters for option in (*one.opts, *one.secondary_opts)} | HELP
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known


def check_make(arguments: list[str]) -> None:
    asked = {word for word in arguments if not ASSIGNMENT.match(word) and not word.startswith("-")}
    assert asked <= targets()


def check_dvc(arguments: list[str]) -> None:
    from dvc.cli import parse_args

    parse_args(arguments)


def check_mlflow(arguments: list[str]) -> None:
    from mlflow.cli import cli as command

    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)


def check_prefect(arguments: list[str]) -> None:
    """A command and options of Prefect's own command line, which is built of lazy parts: its help is asked."""
    words = [word for word in arguments if not word.startswith("-")][:2]
    program = str(Path(sys.executable).parent / "prefect")
    done = subprocess.run([program, *words, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in arguments if word.startswith("--")), arguments


def check_pip(arguments: list[str]) -> None:
    """An install of this project's folder with an extra that it has, under its own constraints."""
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert arguments[0] == "install" and set(options) == {"-c", "-e"}, arguments
    assert (REPO / options["-c"]).is_file()
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert options["-e"].removeprefix(".[").removesuffix("]") in extras


def check_python(arguments: list[str]) -> None:
    """A module of ours, its words read by its own parser, or a script that is there."""
    if arguments[0] != "-m":
        assert (REPO / arguments[0]).is_file()
        return
    name, *rest = arguments[1:]
    assert importlib.util.find_spec(name), f"there is no module {name}"
    if name == "flows.team.rights":
        roles = read_yaml(REPO / "mlflow" / "rights.yaml")["roles"]
        assert rest == ["apply"] or (len(rest) == 3 and rest[0] == "user" and rest[2] in roles)
    if name == "components":
        assert rest[0] in STAGES


def check_torchrun(arguments: list[str]) -> None:
    """Its own parser reads its options; what it starts is a module of ours."""
    given = get_args_parser().parse_args(arguments)
    assert given.module
    check_python(["-m", given.training_script, *given.training_script_args])


def check_docker(arguments: list[str]) -> None:
    """`docker compose` on files that are there, for services that they have."""
    assert arguments[0] == "compose"
    files = [REPO / after for before, after in itertools.pairwise(arguments) if before == "-f"]
    services = {name for path in files for name in read_yaml(path)["services"]}
    words = [word for word in arguments[1 + 2 * len(files) :] if not word.startswith("-")]
    assert files and words[0] in {"up", "down", "logs", "ps"} and set(words[1:]) <= services


def check_kubectl(arguments: list[str]) -> None:
    """Manifests that are there; a secret that one of them asks for, with keys that something here reads."""
    words = [word for before, word in itertools.pairwise(["", *arguments]) if word != "-n" and before != "-n"]
    if words[0] == "apply":
        assert words[1] == "-f" and (REPO / words[2]).exists()
        return
    assert words[:3] == ["create", "secret", "generic"]
    manifests = "\n".join(path.read_text(encoding="utf-8") for path in (REPO / "infra" / "k8s").glob("*.yaml"))
    assert re.search(rf"secret(Key)?Ref: {{name: {re.escape(words[3])}\b", manifests), (
        f"no manifest asks for {words[3]}"
    )
    assert all(word.startswith("--from-literal=") and word.count("=") >= 2 for word in words[4:])


def check_cp(arguments: list[str]) -> None:
    assert all((REPO / source).is_file() for source in arguments[:-1])


CHECKS = {
    "kintsugi": check_kintsugi,
    "make": check_make,
    "dvc": check_dvc,
    "mlflow": check_mlflow,
    "prefect": check_prefect,
    "pip": check_pip,
    "python": check_python,
    "torchrun": check_torchrun,
    "docker": check_docker,
    "kubectl": check_kubectl,
    "cp": check_cp,
}
TRUSTED = {"export", "cd", ".", "git", "apt", "pre-commit", "curl"}  # not ours: nothing of this project can break them


def check(line: str) -> None:
    """Fail on a command line that would be refused for how it is written."""
    words = words_of(line)
    if not words:
        return
    program = words[0].removeprefix(".venv/bin/")
    assert program in CHECKS or program in TRUSTED, f"nothing here checks `{program}`"
    if program in CHECKS:
        CHECKS[program](words[1:])


def pages(find: Any) -> list[Any]:
    return [
        pytest.param(line, id=f"{page.relative_to(REPO).as_posix()}: {line}")
        for page in PAGES
        for line in dict.fromkeys(find(page.read_text(encoding="utf-8")))
    ]


@pytest.mark.parametrize("line", pages(fenced))
def test_a_command_of_the_docs_is_understood(line: str) -> None:
    check(line)


@pytest.mark.parametrize("line", pages(inline))
def test_a_command_named_in_a_sentence_exists(line: str) -> None:
    program, *arguments = line.split()
    if program == "make":
        check_make(arguments)
    else:
        check_mention(arguments)


@pytest.mark.parametrize(
    "line",
    [
        "kintsugi trian bolt",
        "kintsugi run bolt --quick",
        "kintsugi import floder photos --category bolt",
        "kintsugi import folder photos",
        "kintsugi promote bolt --by Ada",
        "make tests",
        "dvc repro --quickly",
        "dvc rerpo",
        "mlflow models serv -m models:/x",
        "prefect worker strat --pool fleet",
        "pip install -c constraints.txt -e .[feature]",
        "kintsguis run",
        "python -m flows.teem.rights apply",
        "python -m flows.team.rights user ada king",
        "python docs/generates.py",
        "docker compose -f infra/composed.yaml up",
        "docker compose -f infra/compose.yaml up mlfow",
        "kubectl apply -f infra/k9s/",
        "kubectl create secret generic nobodys --from-literal=password=x",
        "cp infra/env.exemplar infra/.env",
    ],
)
def test_a_wrong_command_would_be_noticed(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BaseException) as refused:  # each program has its own way to refuse
        check(line)
    assert not isinstance(refused.value, KeyboardInterrupt)


@pytest.mark.parametrize("mention", ["kintsugi trian", "kintsugi audit bolt --pdf trail.pdf"])
def test_a_wrong_mention_would_be_noticed(mention: str) -> None:
    with pytest.raises(AssertionError):
        check_mention(mention.split()[1:])


def test_every_command_is_in_the_docs() -> None:
    quoted = {words_of(line)[1] for page in PAGES for line in commands(page.read_text(encoding="utf-8"))}
    assert set(KINTSUGI.commands) <= quoted  # type: ignore[attr-defined]


def commands(page: str) -> Iterator[str]:
    lines = [line for line in [*fenced(page), *inline(page)] if words_of(line)[:1] == ["kintsugi"]]
    return (line for line in lines if len(words_of(line)) > 1)


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    lines = {line.strip() for line in (REPO / ".ci" / "run").read_text(encoding="utf-8").splitlines()}
    readme = [words_of(line) for line in fenced((REPO / "README.md").read_text(encoding="utf-8"))]
    assert "make test" in lines and ["make", "test"] in readme
    assert (REPO / ".ci" / "run").stat().st_mode & 0o111


def test_every_make_target_says_what_it_does() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    described = set(re.findall(r"^([a-z][a-z-]*):.*## .", makefile, flags=re.MULTILINE))
    phony = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert described == {name for names in phony for name in names.split()}
