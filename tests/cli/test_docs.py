"""Every command that the documentation shows is one that exists."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from gateway.cli.main import command_line
from gateway.inference.manifest import parse_manifest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TYPED = re.compile(r"^\s*(?:\$ )?(?:sudo )?sluicegate ([a-z].+)$", re.MULTILINE)
MENTIONED = re.compile(r"`sluicegate ([a-z][^`\n]+)`")
GROUPS = {"spool", "models", "events", "simulate"}
BENCH = re.compile(r"python -m (bench\.[a-z_]+)")
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


def typed_in(page: Path) -> list[str]:
    found = TYPED.findall(page.read_text("utf-8"))
    # What is left open by "..." is not to be typed; prose has no path and no option.
    return [said for said in found if "..." not in said and re.search(r" -|[./]", said)]


def is_command(said: str) -> bool:
    """Not so the text that a bundle's signature begins with; `simulate` reads its words itself."""
    return said != "bundle" and not said.startswith("simulate")


def test_there_are_commands_to_check() -> None:
    assert len(typed_in(ROOT / "docs" / "models.md")) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_can_be_typed_as_they_are_shown(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = command_line()
    wrong = []
    for said in typed_in(page):
        try:
            parser.parse_args(shlex.split(said, comments=True))
        except SystemExit as ended:
            if ended.code:
                wrong.append(f"{said}: {capsys.readouterr().err.splitlines()[-1]}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_mentioned_exist_with_their_options(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = command_line()
    for said in filter(is_command, MENTIONED.findall(page.read_text("utf-8"))):
        words = said.split()
        named = words[: 2 if words[0] in GROUPS and len(words) > 1 else 1]
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([*named, "--help"])
        assert not ended.value.code, said
        shown = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and word not in shown] == [], said


def test_the_manifest_to_begin_with_is_a_good_one() -> None:
    page = (ROOT / "docs" / "models.md").read_text("utf-8")
    [text] = [
        block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "sha256" in block
    ]
    manifest = parse_manifest(Path("models.md"), text.replace('"..."', f'"{"0" * 64}"').encode())
    assert manifest.fields == ("flow", "pressure", "vibration")


def test_benches_that_are_named_exist() -> None:
    named = {name for page in PAGES for name in BENCH.findall(page.read_text("utf-8"))}
    assert {name for name in named if find_spec(name) is None} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target, _ in LINK.findall(page.read_text("utf-8"))]
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []
