"""Checks of the class itself: its bases, its registration, its signature, its documentation."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from episome import plugins
from episome.testing._check import CheckFailure, check, require

if TYPE_CHECKING:
    from episome.plugins import ModelSpec
    from episome.testing._subject import Subject

#: Names that scvi-tools tests a class for.
_OF_SCVI = frozenset(
    {"SCVI", "SCANVI", "TOTALVI", "MULTIVI", "PEAKVI", "LinearSCVI", "AmortizedLDA", "CondSCVI"}
)
_BASE_METHODS = frozenset({"train", "save", "load", "setup_anndata"})


@check(advice="derive the class from a base of episome.models, and give it a name of its own")
def check_class_is_a_model_of_scvi_tools(subject: Subject) -> None:
    """The class is a ``BaseModelClass`` under the host's contract, with a name of its own."""
    from scvi.model.base import BaseModelClass

    from episome.models import EpisomeModel

    require(issubclass(subject.cls, BaseModelClass), "it is no BaseModelClass of scvi-tools")
    require(issubclass(subject.cls, EpisomeModel), "it does not derive from EpisomeModel")
    require(
        subject.name not in _OF_SCVI,
        f"scvi-tools treats every class called {subject.name} as its own",
    )


@check(advice="return a ModelSpec with this target from `episome_register_models`")
def check_class_is_found_through_its_plugin(subject: Subject) -> None:
    """An entry point leads to the class, by its short and its qualified name."""
    spec = _spec(subject)
    for name in (spec.qualified_name, f"{spec.plugin}:{spec.name}"):
        found = plugins.load_class(plugins.get_spec(name))
        require(found is subject.cls, f"{name!r} leads to {found!r}")
    core = plugins.load_core(spec)
    require(
        isinstance(subject.trained.module, core),
        f"the spec names the core {spec.core}, the model holds a "
        f"{type(subject.trained.module).__name__}",
    )


@check(advice="mix in the class of episome.models for every capability, and name them in the spec")
def check_capabilities_are_kept(subject: Subject) -> None:
    """Class and spec name the same capabilities, and the class has the methods of each."""
    from episome.models import CAPABILITIES

    claimed = tuple(subject.cls.capabilities)
    require(claimed, "the class has no capability")
    named = claimed if subject.spec is None else subject.spec.capabilities
    require(
        set(named) == set(claimed),
        f"the spec says {sorted(named)}, the class {sorted(claimed)}",
    )
    for capability in claimed:
        protocol = CAPABILITIES.get(capability)
        require(
            protocol is None or issubclass(subject.cls, protocol),
            f"it says {capability!r} and lacks its methods",
        )


@check(advice="def __init__(self, adata=None, registry=None, *, n_hidden=128)")
def check_constructor_has_the_signature(subject: Subject) -> None:
    """The constructor takes data and a registry, and keywords that all have defaults."""
    parameters = [*inspect.signature(subject.cls.__init__).parameters.values()][1:]
    require(
        len(parameters) >= 2 and parameters[1].name == "registry",
        f"its parameters are {[p.name for p in parameters]}, data and `registry` come first",
    )
    for p in parameters:
        require(p.default is not p.empty, f"{p.name!r} has no default")
        require(p.kind is not p.VAR_POSITIONAL, "positional arguments of any number are taken")
    rest = [p.name for p in parameters[2:] if p.kind is p.POSITIONAL_OR_KEYWORD]
    require(not rest, f"{rest} can be given by position")


@check(advice="build the network from the registry alone; data are only there in training")
def check_constructor_needs_no_data(subject: Subject) -> None:
    """A registry alone gives a model of the same genes, classes and configuration."""
    trained = subject.trained
    registry = {k: v for k, v in trained.registry.items() if k != "_scvi_uuid"}
    bare = subject.cls(registry=registry)
    require(bare.adata is None, "it holds data")
    require(bare.features.ids == trained.features.ids, "its genes are others")
    config: Any = bare.module.config
    require(config == trained.module.config, f"its core is {config}, not {trained.module.config}")


@check(advice="set self.config to numbers, words, lists and dicts; all state in tensors and files")
def check_core_is_built_from_plain_data(subject: Subject) -> None:
    """JSON configuration, tensors and files give the core back, and other tensors are refused."""
    from episome.errors import ModelFileError
    from episome.testing._check import refuses

    core: Any = subject.trained.module
    config = json.loads(json.dumps(core.config, allow_nan=False))
    require(config == core.config, "the configuration does not survive JSON")
    tensors, files = core.state()
    require(
        all(isinstance(v, np.ndarray) and v.dtype != object for v in tensors.values()),
        "state() holds other things than arrays of numbers",
    )
    again = type(core).from_config(config)
    again.load_state(tensors, files)
    back, _ = again.state()
    require(
        set(back) == set(tensors) and all(np.array_equal(back[k], tensors[k]) for k in tensors),
        "the state that comes back is another",
    )
    other = {**tensors, "no_such_tensor": np.zeros(1, dtype=np.float32)}
    empty = type(core).from_config(config)
    refuses(ModelFileError, lambda: empty.load_state(other, files), "an unknown tensor")


@check(advice="write one sentence, Parameters with units and shapes, Returns, Raises (numpydoc)")
def check_public_methods_are_documented(subject: Subject) -> None:
    """The class, its constructor's arguments and its own public methods have docstrings."""
    require((subject.cls.__doc__ or "").strip(), "the class has no docstring")
    text = f"{subject.cls.__doc__}\n{subject.cls.__init__.__doc__}"
    arguments = [*inspect.signature(subject.cls.__init__).parameters][3:]
    silent = [a for a in arguments if a not in text and a not in {"args", "kwargs"}]
    require(not silent, f"the docstring of the class says nothing about {', '.join(silent)}")
    bare = [n for n, f in _own_methods(subject) if not (f.__doc__ or "").strip()]
    require(not bare, f"no docstring: {', '.join(bare)}")


@check(advice="annotate every parameter and the result; the package ships py.typed")
def check_public_methods_are_typed(subject: Subject) -> None:
    """The constructor and the class's own public methods are annotated."""
    found = []
    for name, function in [("__init__", subject.cls.__init__), *_own_methods(subject)]:
        signature = inspect.signature(function)
        bare = [
            p.name
            for p in signature.parameters.values()
            if p.annotation is p.empty and p.name not in {"self", "cls"}
        ]
        found += [f"{name}({p})" for p in bare]
        if signature.return_annotation is signature.empty:
            found.append(f"{name} -> ?")
    require(not found, f"not annotated: {', '.join(found[:5])}")


def _own_methods(subject: Subject) -> list[tuple[str, Any]]:
    """Public functions that the class itself defines, and not a base of the host."""
    found = []
    for name, value in vars(subject.cls).items():
        function = getattr(value, "__func__", value)
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        if name in _BASE_METHODS and not function.__doc__:
            continue  # documented where it is declared
        found.append((name, function))
    return found


@check(advice='give targets as text ("package.module:Class"), import nothing in plugin.py')
def check_listing_is_light(subject: Subject) -> None:
    """Listing the plugin imports neither torch nor scvi-tools nor anndata."""
    spec = _spec(subject)
    heavy = "torch", "scvi", "lightning", "anndata"
    name = f"{spec.plugin}:{spec.name}"
    imports_nothing(f"import episome.plugins as p; p.get_spec({name!r})", heavy)


@check(advice="keep the core in a module of its own that imports torch or numpy at most")
def check_core_needs_no_scvi_tools(subject: Subject) -> None:
    """Predicting imports neither scvi-tools nor Lightning, unless the spec says so."""
    spec = _spec(subject)
    if "scvi" not in spec.needs:
        module = spec.core.split(":")[0]
        imports_nothing(f"import {module}", ("scvi", "lightning"))


def _spec(subject: Subject) -> ModelSpec:
    """Return the spec of the class; fail where no plugin registers it."""
    if subject.spec is None:
        msg = "no installed plugin registers the class"
        raise CheckFailure(msg)
    return subject.spec


def imports_nothing(code: str, modules: tuple[str, ...]) -> None:
    """Fail where a line, in an interpreter of its own, imports one of some modules."""
    probe = f"{code}\nimport sys; print([m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=300
    )
    require(done.returncode == 0, f"{code} fails: {done.stderr.strip()[-300:]}")
    found = done.stdout.strip().splitlines()[-1]
    require(found == "[]", f"{code} imports {found}")
