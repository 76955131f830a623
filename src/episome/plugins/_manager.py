"""The plugin manager: loads plugins one by one, keeps their specs, says what failed and why."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Literal, TypeAlias, TypeVar, cast

import pluggy

from episome.errors import (
    EpisomeError,
    MissingDependencyError,
    PluginError,
    did_you_mean,
    near_names,
)
from episome.log import get_logger
from episome.plugins import _hookspecs
from episome.plugins._discovery import (
    API_VERSION,
    Found,
    as_api,
    declared_api,
    find,
    import_plugin,
    is_compatible,
    last_line,
    quiet,
)
from episome.plugins._embedded import PREFIX as EMBEDDING
from episome.plugins._embedded import embedding_spec, reading
from episome.plugins._specs import (
    ConverterSpec,
    DatasetSpec,
    MetricSpec,
    ModelSpec,
    PretextSpec,
    SourceSpec,
    Spec,
    StudySpec,
    TaskSpec,
)

__all__ = ["API_VERSION", "PluginManager", "PluginStatus"]

Status: TypeAlias = Literal["loaded", "failed", "refused", "clash", "blocked"]
S = TypeVar("S", bound=Spec)

#: Names that belong to the host: its commands, and words with a meaning of their own.
HOST_COMMANDS = frozenset(
    (
        *("annotate", "audit", "benchmark", "check", "completion", "corpus", "data", "demo"),
        *("doctor", "embed", "evaluate", "explain", "help", "impute", "mix", "models", "plugins"),
        *("predict-modality", "pretrain", "report", "rerun", "serve", "train", "tune"),
    )
)
RESERVED = HOST_COMMANDS | {"auto", "embedding"}

_REGISTER: dict[str, type[Spec]] = {
    "episome_register_models": ModelSpec,
    "episome_register_datasets": DatasetSpec,
    "episome_register_metrics": MetricSpec,
    "episome_register_tasks": TaskSpec,
    "episome_register_studies": StudySpec,
    "episome_register_pretext_tasks": PretextSpec,
    "episome_register_sources": SourceSpec,
    "episome_register_converters": ConverterSpec,
}

# what importing a plugin can raise, also when a module calls exit()
_ANY = (Exception, SystemExit, KeyboardInterrupt)

#: Seconds after which the import of an object is said to go on.
LONG_IMPORT = 5.0

_log = get_logger("plugins")


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """What became of a plugin.

    Parameters
    ----------
    id, distribution, version
        Name of the entry point, and where it comes from.
    api
        Version of the plugin interface it was written for.
    status
        ``loaded``, ``failed`` (raised), ``refused`` (another interface version, or none stated),
        ``clash`` (its id is taken twice) or ``blocked`` (by the environment).
    code, reason
        Code and text of what went wrong.
    hooks, models
        Names of the hooks it implements and of the models it registered.
    notes
        Things worth knowing about a plugin that works, such as a name that clashes.
    seconds
        Time of its import.
    """

    id: str
    distribution: str
    version: str
    api: tuple[int, int] | None = None
    status: Status = "loaded"
    code: str = ""
    reason: str = ""
    hooks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Options:
    """The environment variables of the manager."""

    block: frozenset[str]
    only: frozenset[str]
    strict: bool
    trace: bool

    @classmethod
    def read(cls) -> _Options:
        return cls(
            block=_listed("EPISOME_BLOCK_PLUGINS"),
            only=_listed("EPISOME_ONLY_PLUGINS"),
            strict=_switched("EPISOME_STRICT_PLUGINS"),
            trace=_switched("EPISOME_TRACE_PLUGINS"),
        )

    def blocks(self, found: Found) -> str:
        """Return why a plugin is not wanted, an empty text when it is."""
        names = {found.id, found.distribution}
        if names & self.block:
            return "blocked by EPISOME_BLOCK_PLUGINS"
        if self.only and not names & self.only:
            return "not in EPISOME_ONLY_PLUGINS"
        return ""


def _listed(variable: str) -> frozenset[str]:
    return frozenset(p.strip() for p in os.environ.get(variable, "").split(",") if p.strip())


def _switched(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


class _Refused(Exception):
    """A plugin breaks a rule of the host."""

    def __init__(self, status: Status, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.code = code
        self.reason = reason


class PluginManager:
    """Loads the installed plugins and answers for them.

    Most callers want the functions of :mod:`episome.plugins`, which use one manager.
    """

    def __init__(self) -> None:
        self._options = _Options.read()
        self._pluggy = pluggy.PluginManager(_hookspecs.PROJECT)
        self._pluggy.add_hookspecs(_hookspecs)
        self._status: dict[tuple[str, str], PluginStatus] = {}
        self._specs: dict[type, list[Spec]] = {kind: [] for kind in _REGISTER.values()}
        self._names: dict[type, dict[str, list[Spec]]] = {}
        self.damaged: tuple[str, ...] = ()

    # -- loading ---------------------------------------------------------------------------------

    def load(self) -> None:
        """Load every plugin, one by one; a failing one is noted and takes nothing down."""
        found, damaged = find()
        self.damaged = tuple(damaged)
        ids = [item.id for item in found]
        for item in found:
            others = [o.distribution for o in found if o.id == item.id and o is not item]
            if reason := self._options.blocks(item):
                self._note(item, status="blocked", reason=reason)
            elif ids.count(item.id) > 1:
                reason = f"{', '.join(others)} has the same id; uninstall one of them"
                self._note(item, status="clash", code="E-P03", reason=reason)
            else:
                self._load_one(item)
        self._index()
        if self._options.strict:
            self._raise_first()

    def _load_one(self, found: Found) -> None:
        api: tuple[int, int] | None = None
        module: ModuleType | None = None
        seconds = 0.0
        try:
            self._check_id(found)
            api = self._check_declared(found)
            module, seconds = import_plugin(found)
            api = _check_api(found, module)
            specs = self._register(found, module)
        except _Refused as error:
            self._drop(module)
            self._note(found, api=api, status=error.status, code=error.code, reason=error.reason)
        except _ANY as error:
            self._drop(module)
            reason = _explain(error)
            _log.debug("plugin %s failed", found.id, exc_info=True)
            self._note(found, api=api, status="failed", code="E-P02", reason=reason)
        else:
            for spec in specs:
                self._specs[type(spec)].append(spec)
            self._note(
                found,
                api=api,
                hooks=tuple(sorted(self._hooks(module))),
                models=tuple(s.name for s in specs if isinstance(s, ModelSpec)),
                seconds=seconds,
            )

    def _check_id(self, found: Found) -> None:
        if found.id in RESERVED:
            reason = f"the id {found.id!r} belongs to the host; the plugin has to take another"
            raise _Refused("refused", "E-P03", reason)

    def _check_declared(self, found: Found) -> tuple[int, int] | None:
        """Refuse a plugin of another interface version before it is imported, where that shows."""
        with quiet(found.id):
            api = declared_api(found.module.partition(":")[0])
        if api is not None and not is_compatible(api):
            raise _Refused("refused", "E-P05", _versions(api))
        return api

    def _register(self, found: Found, module: ModuleType) -> list[Spec]:
        try:
            self._pluggy.register(module, name=found.id)
            self._pluggy.check_pending()
        except pluggy.PluginValidationError as error:
            raise _Refused("failed", "E-P06", _hook_reason(error)) from error
        except ValueError as error:  # the same module under two ids
            raise _Refused("clash", "E-P03", str(error).splitlines()[0]) from error
        specs: list[Spec] = []
        for hook, function in self._hooks(module).items():
            if hook in _REGISTER:
                specs += self._collect(found, hook, function)
        return specs

    def _collect(self, found: Found, hook: str, function: Callable[..., object]) -> Iterable[Spec]:
        self._trace(found.id, hook)
        with quiet(found.id):
            result = function()
        kind = _REGISTER[hook]
        if isinstance(result, kind):
            result = (result,)
        if not isinstance(result, Iterable) or isinstance(result, (str, Mapping)):
            reason = f"{hook} returned {type(result).__name__}, not a tuple of {kind.__name__}"
            raise _Refused("failed", "E-P06", reason)
        items = tuple(result)
        for item in items:
            if type(item) is not kind:
                reason = f"{hook} returned {type(item).__name__} among its {kind.__name__}s"
                raise _Refused("failed", "E-P06", reason)
        own = {"plugin": found.id, "distribution": found.distribution, "version": found.version}
        return [replace(cast("Any", item), **own) for item in items]

    def _hooks(self, module: ModuleType) -> dict[str, Callable[..., object]]:
        """Return the hooks that a plugin implements."""
        found: dict[str, Callable[..., object]] = {}
        for caller in self._pluggy.get_hookcallers(module) or ():
            for impl in caller.get_hookimpls():
                if impl.plugin is module:
                    found[caller.name] = impl.function
        return found

    def _drop(self, module: ModuleType | None) -> None:
        if module is not None and self._pluggy.is_registered(module):
            self._pluggy.unregister(module)

    def _note(self, found: Found, **fields: Any) -> None:
        status = PluginStatus(found.id, found.distribution, found.version, **fields)
        self._status[(found.id, found.distribution)] = status
        if status.status in ("failed", "refused", "clash"):
            _log.debug("plugin %s: %s [%s]", status.id, status.reason, status.code)

    def _raise_first(self) -> None:
        for status in self.status():
            if status.status in ("failed", "refused", "clash") or status.notes:
                raise _not_usable(status)
        if self.damaged:
            raise PluginError(
                "E-P14", "the metadata of a distribution is damaged", examples=self.damaged
            )

    # -- names -----------------------------------------------------------------------------------

    def _index(self) -> None:
        for kind, specs in self._specs.items():
            names: dict[str, list[Spec]] = {}
            for spec in specs:
                for key in {spec.name, getattr(spec, "class_name", spec.name)}:
                    names.setdefault(key, []).append(spec)
            self._names[kind] = names
            for spec in specs:
                if reason := self._why_not_short(kind, spec):
                    self._annotate(spec, reason)

    def _why_not_short(self, kind: type, spec: Spec) -> str:
        """Return why the short name of a spec does not stand for it."""
        if spec.name in RESERVED:
            return f"the name {spec.name!r} belongs to the host; use {_qualified(spec)}"
        for key in (spec.name, getattr(spec, "class_name", spec.name)):
            owners = self._names[kind][key]
            if len(owners) > 1:
                ways = " or ".join(_qualified(o) for o in owners)
                return f"the name {key!r} is claimed {len(owners)} times; use {ways}"
        return ""

    def _annotate(self, spec: Spec, note: str) -> None:
        key = (spec.plugin, spec.distribution)
        self._status[key] = replace(self._status[key], notes=(*self._status[key].notes, note))

    def specs(self, kind: type[S]) -> dict[str, S]:
        """Return the specs of a kind by name; one whose name is not its own appears qualified."""
        found: dict[str, S] = {}
        for spec in sorted(self._specs[kind], key=lambda s: (s.name, s.plugin)):
            clean = spec.name not in RESERVED and len(self._names[kind][spec.name]) == 1
            key = spec.name if clean else f"{spec.plugin}:{spec.name}"
            found[key] = cast("S", spec)
        return found

    def get(self, name: str, kind: type[S]) -> S:
        """Return the spec that a short, class or qualified name stands for.

        Raises
        ------
        PluginError
            When there is none, more than one, or its plugin failed.
        """
        plugin, _, rest = name.rpartition(":")
        owners = [
            s
            for s in self._names[kind].get(rest, [])
            if not plugin or plugin in (s.plugin, s.distribution)
        ]
        if not owners and plugin:
            owners = [s for s in self._specs[kind] if getattr(s, "target", None) == name]
        if not plugin and rest in RESERVED:
            owners = []
        if len(owners) == 1:
            return cast("S", owners[0])
        if owners:
            raise _ambiguous(name, owners)
        raise self._unknown(name, kind)

    def _unknown(self, name: str, kind: type) -> PluginError:
        bad = [s for s in self.status() if s.status != "loaded"]
        wanted = name.rpartition(":")[0] or name
        for status in bad:
            if wanted.lower().replace("_", "-") in (
                status.id.lower(),
                status.distribution.lower(),
            ):
                return _not_usable(status)
        known = sorted({k for k in self._names[kind] if k not in RESERVED})
        what = kind.__name__.removesuffix("Spec").lower()
        if not known and not bad:
            return PluginError(
                "E-P14",
                f"no {what} is installed, so {name!r} cannot be found",
                fix="`pip install episome-sctab episome-baselines`",
            )
        near = near_names(name.rpartition(":")[2], known)
        failed = "; ".join(f"{s.id} ({s.reason})" for s in bad)
        names = ", ".join(sorted(self.specs(kind)))
        return PluginError(
            "E-P01",
            f"there is no {what} called {name!r}",
            why=f"Installed: {names or 'none'}"
            + (f". Plugins that cannot be used: {failed}" if failed else ""),
            fix=did_you_mean(name.rpartition(":")[2], known) or "`episome plugins` lists all",
            details={"suggestions": near, "failed": [s.id for s in bad]},
        )

    # -- what the rest of the host asks ---------------------------------------------------------

    def status(self) -> list[PluginStatus]:
        """Return what became of each plugin, sorted by id."""
        return [self._status[key] for key in sorted(self._status)]

    def notify(self, hook: str, **arguments: object) -> None:
        """Call a notice on every plugin; one that raises is logged and stops nothing."""
        for plugin, function, names in self._implementations(hook):
            self._trace(plugin, hook)
            try:
                with quiet(plugin):
                    function(**{n: arguments[n] for n in names})
            except (Exception, SystemExit) as error:
                if self._options.strict:
                    raise
                _log.warning("plugin %s: %s failed: %s", plugin, hook, last_line(error))
                _log.debug("plugin %s: %s failed", plugin, hook, exc_info=True)

    def _implementations(
        self, hook: str
    ) -> list[tuple[str, Callable[..., object], tuple[str, ...]]]:
        caller = getattr(self._pluggy.hook, hook)
        return [
            (impl.plugin_name, impl.function, tuple(impl.argnames))
            for impl in caller.get_hookimpls()
        ]

    def _trace(self, plugin: str, hook: str) -> None:
        if self._options.trace:
            sys.stderr.write(f"episome: {plugin}: {hook}\n")


def _either(names: list[str]) -> str:
    return " or ".join(f"`{n}`" for n in names)


def _qualified(spec: Spec) -> str:
    return f"{spec.plugin}:{getattr(spec, 'class_name', spec.name)}"


def _versions(api: tuple[int, int]) -> str:
    theirs, ours = ".".join(map(str, api)), ".".join(map(str, API_VERSION))
    newer = api > API_VERSION
    advice = "update episome" if newer else "update the plugin"
    return f"written for plugin interface {theirs}, this episome has {ours}: {advice}"


def _check_api(found: Found, module: ModuleType) -> tuple[int, int]:
    value = getattr(module, "EPISOME_API", None)
    if value is None:
        reason = (
            f"{found.module} does not say which plugin interface it was written for: "
            f"it needs a line EPISOME_API = {API_VERSION}"
        )
        raise _Refused("refused", "E-P05", reason)
    api = as_api(value)
    if api is None:
        reason = f"EPISOME_API is {value!r}, expected two whole numbers such as {API_VERSION}"
        raise _Refused("refused", "E-P05", reason)
    if not is_compatible(api):
        raise _Refused("refused", "E-P05", _versions(api))
    return api


def _explain(error: BaseException) -> str:
    text = last_line(error)
    if isinstance(error, ModuleNotFoundError) and error.name and "episome" not in error.name:
        text += f"; `pip install {error.name.partition('.')[0]}` may repair it"
    return text


def _hook_reason(error: pluggy.PluginValidationError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    known = ", ".join(n for n in dir(_hookspecs) if n.startswith("episome_"))
    text = " ".join(lines[:4])
    return f"{text} (hooks: {known})" if "unknown hook" in text else text


def _not_usable(status: PluginStatus) -> PluginError:
    if status.status == "blocked":
        what, fix = f"the plugin {status.id!r} is switched off", "change the variable"
    elif status.status == "loaded":
        what, fix = f"a name of the plugin {status.id!r} is not its own", None
    else:
        what, fix = f"the plugin {status.id!r} cannot be used", "`episome plugins` shows its state"
    return PluginError(
        status.code or ("E-P03" if status.notes else "E-P02"),
        what,
        where=f"{status.distribution} {status.version}",
        why=status.reason or "; ".join(status.notes),
        fix=fix,
        details={"plugin": status.id, "status": status.status},
    )


def _ambiguous(name: str, owners: list[Spec]) -> PluginError:
    ways = [_qualified(o) for o in owners]
    if len(set(ways)) < len(ways):
        ways = [f"{o.plugin}:{o.name}" for o in owners]
    return PluginError(
        "E-P03",
        f"the name {name!r} is claimed by more than one plugin",
        why="neither wins, so that installing a package never changes what a name means",
        fix=_either(ways),
        details={"qualified": ways},
    )


# -- the one manager ---------------------------------------------------------------------------

_manager: PluginManager | None = None


def get_manager() -> PluginManager:
    """Return the manager, loading the plugins on first use."""
    global _manager
    if _manager is None:
        manager = PluginManager()
        manager.load()
        _manager = manager
    return _manager


def reset_manager() -> None:
    """Forget the loaded plugins; the next use looks for them again."""
    global _manager
    _manager = None


def models() -> dict[str, ModelSpec]:
    """Return the installed models by spec name; on a clash of names, by qualified name."""
    return get_manager().specs(ModelSpec)


def datasets() -> dict[str, DatasetSpec]:
    """Return the registered data sets by name."""
    return get_manager().specs(DatasetSpec)


def metrics() -> dict[str, MetricSpec]:
    """Return the registered metrics by name."""
    return get_manager().specs(MetricSpec)


def tasks() -> dict[str, TaskSpec]:
    """Return the registered benchmark tasks by name."""
    return get_manager().specs(TaskSpec)


def studies() -> dict[str, StudySpec]:
    """Return the registered studies by name."""
    return get_manager().specs(StudySpec)


def pretext_tasks() -> dict[str, PretextSpec]:
    """Return the registered self-supervised tasks by name."""
    return get_manager().specs(PretextSpec)


def sources() -> dict[str, SourceSpec]:
    """Return the registered cell sources by name."""
    return get_manager().specs(SourceSpec)


def converters() -> dict[str, ConverterSpec]:
    """Return the registered converters of models by name."""
    return get_manager().specs(ConverterSpec)


def get_spec(name: str) -> ModelSpec:
    """Return the spec of a model.

    Parameters
    ----------
    name
        Spec name (``"sctab"``), class name (``"SCTab"``), or either qualified by the plugin
        (``"sctab:SCTab"``, ``"sctab:sctab"``). ``"embedding:KEY"`` is a model that learns from
        ``obsm[KEY]``, ``"embedding:KEY:NAME"`` a chosen one.

    Raises
    ------
    PluginError
        When no model has the name, more than one has, or its plugin failed to load.
    """
    manager = get_manager()
    if name.startswith(EMBEDDING):
        known = manager.specs(ModelSpec).values()
        return embedding_spec(name, known, lambda n: manager.get(n, ModelSpec))
    return manager.get(name, ModelSpec)


def plugin_status() -> list[PluginStatus]:
    """Return what became of each installed plugin."""
    return get_manager().status()


def load_object(target: str, *, plugin: str = "") -> Any:
    """Import the object that a target ``"package.module:Name"`` stands for.

    Raises
    ------
    MissingDependencyError
        When a package that it needs is not installed.
    PluginError
        When importing it fails otherwise.
    """
    module, _, path = target.partition(":")
    try:
        with quiet(plugin or module), _announced(module):
            value: Any = importlib.import_module(module)
            for name in path.split("."):
                value = getattr(value, name)
    except EpisomeError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or module == error.name or module.startswith(f"{error.name}."):
            raise _broken(target, plugin, error) from error
        raise MissingDependencyError(
            "E-P02",
            f"the package {error.name!r} is not installed",
            where=plugin or module,
            why=f"{target} needs it",
            fix=f"`pip install {error.name.partition('.')[0]}`",
        ) from error
    except (Exception, SystemExit) as error:
        raise _broken(target, plugin, error) from error
    return value


@contextlib.contextmanager
def _announced(module: str) -> Iterator[None]:
    """Say that an import goes on when it takes long, so that nobody takes it for a hang."""
    text = "importing %s, which takes a while the first time"
    timer = threading.Timer(LONG_IMPORT, _log.info, (text, module))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _broken(target: str, plugin: str, error: BaseException) -> PluginError:
    return PluginError(
        "E-P02",
        f"{target} cannot be imported",
        where=f"plugin {plugin}" if plugin else None,
        why=last_line(error),
        fix="update or reinstall the plugin",
    )


def load_class(spec: ModelSpec) -> Any:
    """Import the class of a model.

    Raises
    ------
    MissingDependencyError, PluginError
        See :func:`load_object`; also when it is no model of scvi-tools (E-P06).
    """
    cls = load_object(spec.target, plugin=spec.plugin)
    # By name: only a module of a model has imported scvi-tools, and this one must not.
    bases = {(b.__module__.partition(".")[0], b.__name__) for b in getattr(cls, "__mro__", ())}
    if ("scvi", "BaseModelClass") not in bases:
        raise PluginError(
            "E-P06",
            f"{spec.target} is no model class",
            where=_where(spec),
            why=f"it is a {type(cls).__name__}, and models derive from scvi-tools' "
            "BaseModelClass by way of episome.models",
            fix="derive it from a base of episome.models, or correct the target in the ModelSpec",
        )
    return reading(cls, spec.obsm_key) if spec.obsm_key else cls


def _where(spec: Spec) -> str:
    return f"{spec.distribution} {spec.version} (plugin {spec.plugin})".strip()


def load_core(spec: ModelSpec) -> Any:
    """Import the core of a model, what a folder restores."""
    return load_object(spec.core, plugin=spec.plugin)


def spec_of_class(cls: type) -> ModelSpec:
    """Return the spec under which a class is registered.

    Raises
    ------
    PluginError
        When no installed plugin registers it.
    """
    target = f"{cls.__module__}:{cls.__qualname__}"
    known = get_manager().specs(ModelSpec).values()
    for spec in known:
        if spec.target == target or _imported(spec) is cls:
            return spec
    raise PluginError(
        "E-P01",
        f"no installed plugin registers the class {target}",
        why="a model folder names its model, and loading it has to find the class again",
        fix="return a ModelSpec for it from `episome_register_models`, see `episome plugins`",
    )


def _imported(spec: ModelSpec) -> object:
    """Return the class of a spec if it is imported already; a target may name a re-export."""
    module, _, path = spec.target.partition(":")
    return getattr(sys.modules.get(module), path, None)


def before_train(model: object, run: object) -> None:
    """Tell the plugins that training is about to start."""
    get_manager().notify("episome_before_train", model=model, run=run)


def after_train(model: object, run: object) -> None:
    """Tell the plugins that training has ended."""
    get_manager().notify("episome_after_train", model=model, run=run)


def after_evaluate(result: object) -> None:
    """Tell the plugins that an evaluation has ended."""
    get_manager().notify("episome_after_evaluate", result=result)


def add_commands(app: object) -> None:
    """Let the plugins add commands to the command line."""
    get_manager().notify("episome_cli", app=app)
