"""What import-linter does not look at: names handed on from one module to another, and circles between modules."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "agent"


def name_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parse(root: Path) -> dict[str, ast.Module]:
    """The modules of the package below a directory, by their dotted names."""
    return {name_of(path, root): ast.parse(path.read_text()) for path in (root / PACKAGE).rglob("*.py")}


@functools.cache
def modules() -> dict[str, ast.Module]:
    return parse(ROOT)


def imports(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Each import wherever it stands, in functions too: the module, and the name that is taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def imported_names(tree: ast.Module) -> dict[str, str]:
    """The names that a module has from other modules, each with where from."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    """`agent.formats` of `agent.formats.tables.read`; the first word of a module that is not ours."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == PACKAGE else 1])


def handed_on(trees: dict[str, ast.Module]) -> list[str]:
    """Names that one module of ours takes from another, which has itself only imported them from another room."""
    return sorted(
        f"{name} takes {taken} from {module}, which has it from {origin}: "
        f"import it from there, or a contract about {room(origin)} does not see that {name} uses it"
        for name, tree in trees.items()
        for module, taken in imports(tree)
        if module in trees and taken is not None and f"{module}.{taken}" not in trees
        for origin in [imported_names(trees[module]).get(taken)]
        if origin is not None and room(origin) != room(module)
    )


def arrows(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Which module imports which. A package's own `__init__` counts where something is taken from it."""
    return {
        name: {
            target
            for module, taken in imports(tree)
            for target in [f"{module}.{taken}" if f"{module}.{taken}" in trees else module]
            if target in trees and target != name
        }
        for name, tree in trees.items()
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that cannot be put into an order: what is left once all that imports nothing of the rest is taken away,
    and all that nothing of the rest imports.
    """
    left = set(graph)
    while True:
        ends = {name for name in left if not graph[name] & left}
        ends |= {name for name in left if not any(name in graph[other] for other in left)}
        if not ends:
            return [sorted(left)] if left else []
        left -= ends


def test_no_name_is_handed_on() -> None:
    assert handed_on(modules()) == []


def test_modules_import_each_other_in_no_circle() -> None:
    assert circles(arrows(modules())) == []


def written(root: Path, files: dict[str, str]) -> dict[str, ast.Module]:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return parse(root)


def test_a_name_that_is_handed_on_is_found(tmp_path: Path) -> None:
    trees = written(
        tmp_path,
        {
            "__init__.py": "",
            "lean.py": "import structlog\nfrom os import path as places\n\ndef own(): ...\n",
            "room/__init__.py": "",
            "room/user.py": "def late():\n    from agent.lean import own, places, structlog\n",
            "room/part.py": "class Part: ...\n",
            "room/whole.py": "from agent.room.part import Part\n",
            "room/near.py": "from agent.room.whole import Part\n",
            "far/__init__.py": "",
            "far/door.py": "from agent.room.part import Part\n",
            "far/user.py": "from agent.far.door import Part\n",
        },
    )
    assert [fault.partition(":")[0] for fault in handed_on(trees)] == [
        "agent.far.user takes Part from agent.far.door, which has it from agent.room.part.Part",
        "agent.room.user takes places from agent.lean, which has it from os.path",
        "agent.room.user takes structlog from agent.lean, which has it from structlog",
    ]


def test_a_circle_is_found_also_where_an_import_stands_in_a_function(tmp_path: Path) -> None:
    trees = written(
        tmp_path,
        {
            "__init__.py": "",
            "above.py": "import agent.bar\n",
            "bar.py": "from agent.display import shape\n",
            "display.py": "from agent import below\n\ndef show():\n    from agent.bar import Bar\n",
            "below.py": "",
        },
    )
    assert circles(arrows(trees)) == [["agent.bar", "agent.display"]]
