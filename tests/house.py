"""Measures the house against its plan: ``python -m tests.house`` prints what it finds, and fails
where more is found than :data:`LIMITS` allows. Limits may only fall."""

import ast
import functools
import io
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("configs", "train", "jaxmodels", "input_pipeline")
OPTIONAL = ("torch", "torchvision", "transformers", "huggingface_hub", "libtpu", "IPython")
CARDS = ("DatasetCard", "TextCard", "TableCard", "ImageTextCard")
LONGEST, REPEATED = 450, 6
BUDGETS = {"train/*.py": 2500, "jaxmodels/families/*": 400, "tools": 1000, "tasks, features": 250}
TOOLS = (
    *("jaxmodels.parity", "jaxmodels.originals", "jaxmodels.bench", "jaxmodels.plan"),
    *("train.compare", "train.plan", "train.explain", "train.compress", "train.launch"),
)

LIMITS = {
    "files in circles": 0,
    "project imports in functions": 1,
    "isinstance on cards": 0,
    "files over 450 code lines": 0,
    "code lines of train/*.py": 2739,
    "families over 400 code lines": 4,
    "tools over 1000 code lines": 0,
    "tasks and features over 250 code lines": 0,
    "repeated stretches between families": 82,
}
"""What was found when this table was last written."""


def files(*parts: str) -> list[Path]:
    """Python files of a room or of a part of one."""
    return sorted(ROOT.joinpath(*parts).rglob("*.py"))


@functools.cache
def tree(path: Path) -> ast.Module:
    """Syntax of a file."""
    return ast.parse(path.read_text())


def code_lines(path: Path) -> list[str]:
    """Lines with code, without docstrings and comments."""
    text = path.read_text()
    lines, kept = text.splitlines(), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (
            *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER),
            *(tokenize.INDENT, tokenize.DEDENT),
        ):
            kept |= {*range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(tree(path)):  # strings that are statements
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            kept -= {*range(node.lineno, node.end_lineno + 1)}
    return [lines[i - 1].strip() for i in sorted(kept)]


def name_of(path: Path) -> str:
    """Module of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, modules: set[str]) -> Iterator[tuple[str, bool]]:
    """Modules of the project that a file imports, and whether inside a function."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                full = [f"{child.module}.{alias.name}" for alias in child.names]
                names = [name if name in modules else str(child.module) for name in full]
            else:
                names = []
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                yield from walk(child, inside or function)
            yield from ((name, inside) for name in names if name in modules)

    yield from walk(tree(path), False)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which reaches itself through the others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [*graph[start]]
        while left:
            node = left.pop()
            if node not in seen:
                seen.add(node)
                left += graph[node]
        return seen

    reach = {node: reached(node) for node in graph}
    groups = {
        tuple(sorted(other for other in reach[node] if node in reach[other]))
        for node in graph
        if node in reach[node]
    }
    return [[*group] for group in sorted(groups)]


def repeated() -> list[str]:
    """Stretches of six or more code lines that stand in two families."""
    places: dict[tuple[str, ...], set[tuple[str, str, int]]] = defaultdict(set)
    for path in files("jaxmodels", "families"):
        lines = code_lines(path)
        for i in range(len(lines) - REPEATED + 1):
            where = (path.parent.name, name_of(path), i)
            places[tuple(lines[i : i + REPEATED])].add(where)
    found = [
        sorted(f"{module}:{i}" for _, module, i in where)
        for lines, where in places.items()
        if len({family for family, _, _ in where}) > 1
        and not all(line.startswith(("import ", "from ")) for line in lines)
    ]
    return [" = ".join(where) for where in sorted(found)]


def measured() -> dict[str, list[str] | int]:
    """What each row of :data:`LIMITS` counts: what was found, or a number."""
    every = {name_of(path): path for room in ROOMS for path in files(room)}
    modules = {*every}
    edges = {name: [*imported(path, modules)] for name, path in every.items()}
    in_circles = []
    for room in ROOMS:
        of_room = {name for name in modules if name.partition(".")[0] == room}
        graph = {n: {m for m, _ in edges[n] if m in of_room and m != n} for n in of_room}
        in_circles += [f"{room}: {' '.join(group)}" for group in circles(graph)]
    lengths = {name: len(code_lines(path)) for name, path in every.items()}

    def of(prefix: str) -> int:
        return sum(n for name, n in lengths.items() if f"{name}.".startswith(f"{prefix}."))

    families = [path.name for path in (ROOT / "jaxmodels" / "families").iterdir() if path.is_dir()]
    cards = [
        f"{name}:{node.lineno}"
        for name, path in every.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "isinstance"
        and any(card in ast.unparse(node.args[1]) for card in CARDS)
    ]
    loose = {n for n in modules if n == "train" or (n.startswith("train.") and n.count(".") == 1)}
    return {
        "files in circles": in_circles,
        "project imports in functions": sorted(
            f"{name} -> {other}" for name in modules for other, inside in edges[name] if inside
        ),
        "isinstance on cards": sorted(cards),
        "files over 450 code lines": [f"{k} {n}" for k, n in lengths.items() if n > LONGEST],
        "code lines of train/*.py": sum(
            lengths[n] for n in loose if every[n].parent == ROOT / "train"
        ),
        "families over 400 code lines": sorted(
            f"{family} {n}"
            for family in families
            if (n := of(f"jaxmodels.families.{family}")) > BUDGETS["jaxmodels/families/*"]
        ),
        "tools over 1000 code lines": sorted(
            f"{tool} {n}" for tool in TOOLS if (n := of(tool)) > BUDGETS["tools"]
        ),
        "tasks and features over 250 code lines": sorted(
            f"{name} {n}"
            for name, n in lengths.items()
            if name.startswith(("train.tasks.", "input_pipeline.features."))
            and n > BUDGETS["tasks, features"]
        ),
        "repeated stretches between families": repeated(),
    }


def count(row: str, found: list[str] | int) -> int:
    """The number that a limit is for; of circles, the files in them."""
    if isinstance(found, int):
        return found
    return sum(len(x.split()) - 1 for x in found) if row == "files in circles" else len(found)


def optional_imports() -> list[str]:
    """Imports of optional packages inside functions."""
    found = set()
    for room in ROOMS:
        for path in files(room):
            for outer in ast.walk(tree(path)):
                if not isinstance(outer, ast.FunctionDef):
                    continue
                for node in ast.walk(outer):
                    names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                    if isinstance(node, ast.ImportFrom):
                        names = [str(node.module)]
                    tops = {name.partition(".")[0] for name in names}
                    found |= {f"{name_of(path)} -> {top}" for top in tops & {*OPTIONAL}}
    return sorted(found)


def main() -> int:
    """Prints the table and what it counts."""
    failed = 0
    for row, found in measured().items():
        number = count(row, found)
        over = number > LIMITS[row]
        failed += over
        print(f"{row}: {number} (limit {LIMITS[row]}){' TOO MANY' if over else ''}")
        for line in found if isinstance(found, list) else ():
            print(f"    {line}")
    print("optional packages imported in functions:")
    for line in optional_imports():
        print(f"    {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
