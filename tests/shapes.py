"""Checks of shapes while tests run: every function of saekit that names the shape of an array.

jaxtyping's own hook checks every function, plain types as well, which doubles the time of the
tests and takes 15 s at the start of each process; `make slow` uses it. This one leaves a function
alone that names no shape, and builds a check at its first call.
"""

import ast
import functools
import sys
import typing
from importlib.machinery import PathFinder, SourceFileLoader

import jaxtyping
from beartype import BeartypeConf, beartype

CHECK = "_checked_shapes"


def names_a_shape(hint: object) -> bool:
    """Tell whether an annotation is of an array with a shape, or of something that holds one."""
    if isinstance(hint, str):
        return False
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    parts = typing.get_args(hint)
    return any(
        any(map(names_a_shape, part)) if isinstance(part, list) else names_a_shape(part)
        for part in parts
    )


def checked(made):
    """Return what checks the shapes that a function or a class names, or itself without any."""
    if not any(map(names_a_shape, getattr(made, "__annotations__", {}).values())):
        return made
    check = jaxtyping.jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))
    if isinstance(made, type):
        return check(made)
    built = None

    @functools.wraps(made)
    def first_builds(*args, **kwargs):
        nonlocal built
        built = built or check(made)
        return built(*args, **kwargs)

    return first_builds


class _Marks(ast.NodeTransformer):
    """Puts the check next to each function, and above the other decorators of each class."""

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.decorator_list.append(ast.copy_location(ast.Name(CHECK, ast.Load()), node))
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node):
        self.generic_visit(node)
        node.decorator_list.insert(0, ast.copy_location(ast.Name(CHECK, ast.Load()), node))
        return node


class _Loader(SourceFileLoader):
    def get_code(self, fullname):
        path = self.get_filename(fullname)
        source = self.get_data(path)
        if b"jaxtyping" not in source:
            return super().get_code(fullname)
        marked = _Marks().visit(ast.parse(source, path))
        return compile(ast.fix_missing_locations(marked), path, "exec", dont_inherit=True)

    def exec_module(self, module):
        module.__dict__[CHECK] = checked
        super().exec_module(module)


class _Finder:
    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target) if name.startswith("saekit.") else None
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Check shapes in whatever of saekit is imported from now on."""
    sys.meta_path.insert(0, _Finder())
