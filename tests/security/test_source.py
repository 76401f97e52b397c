"""What no line of the toolkit does: ruff's rules in pyproject.toml, and these."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.helpers.commands import ROOT

FORBIDDEN = {"allow_pickle": True, "shell": True, "trust_remote_code": True, "weights_only": False}
PATHS = [path for folder in ("fla", "launchers", "tools") for path in (ROOT / folder).rglob("*.py")]


def calls(text: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))


def faults(text: str) -> list[str]:
    """Calls that would run what is in a file, a line each."""
    found = []
    for call in calls(text):
        name = ast.unparse(call.func)
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        found += [
            f"{call.lineno}: {name}({word}={value})"
            for word, value in FORBIDDEN.items()
            if words.get(word) == str(value)
        ]
        if name == "torch.load" and words.get("weights_only") != "True":
            found.append(f"{call.lineno}: torch.load without weights_only=True")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_the_rules_find_such_a_line(line):
    assert len(faults(line)) >= 1


def test_no_line_runs_what_is_in_a_file():
    found = {path.name: faults(path.read_text(encoding="utf-8")) for path in PATHS}

    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_readmes_commands_for_mlflow_listen_on_this_machine_alone():
    # That is MLflow's own choice where nothing else is said.
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"mlflow (?:server|ui)\b.*", readme)
    hosts = re.findall(r"(?:--host|-h)[ =](\S+)", "\n".join(commands))

    assert commands
    assert set(hosts) <= {"127.0.0.1", "localhost"}
    assert "0.0.0.0" not in readme
