"""What several baselines ask of their arguments and of the installation."""

from __future__ import annotations

from importlib.util import find_spec

from episome.errors import MissingDependencyError, UsageError


def require_extra(package: str, *, why: str) -> None:
    """Refuse to go on without an optional package.

    Parameters
    ----------
    package
        Name of the package, which is also the name of the extra.
    why
        What needs it, one clause.

    Raises
    ------
    MissingDependencyError
        It is not installed (E-P02).
    """
    if find_spec(package) is None:
        raise MissingDependencyError(
            "E-P02",
            f"the package {package!r} is not installed",
            where="episome-baselines",
            why=why,
            fix=f'pip install "episome-baselines[{package}]"',
        )


def require_joint_embedding() -> None:
    """Refuse to go on with a scvi-tools older than ``JointEmbeddingSCVI``; imports it.

    Raises
    ------
    MissingDependencyError
        scvi-tools has no such model (E-P02).
    """
    import scvi.external

    if not hasattr(scvi.external, "JointEmbeddingSCVI"):
        raise MissingDependencyError(
            "E-P02",
            f"scvi-tools {scvi.__version__} has no JointEmbeddingSCVI",
            why="JointEmbeddingAdapter is trained and run by it, and needs scvi-tools 1.5",
            fix='pip install "scvi-tools>=1.5", with Python 3.12 or later',
        )


def require_positive(**values: int | None) -> None:
    """Refuse numbers below one; ``None`` stands for a default.

    Raises
    ------
    UsageError
        E-U22.
    """
    for name, value in values.items():
        if value is not None and value < 1:
            raise UsageError("E-U22", f"{name}={value}", fix=f"pass {name} of at least 1")
