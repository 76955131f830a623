"""What the codes of messages mean, for ``episome doctor --explain``."""

from __future__ import annotations

__all__ = ["CODES", "FAMILIES", "explain"]

#: First letter of a code -> what the family is about, and its exit code.
FAMILIES: dict[str, tuple[str, int]] = {
    "D": ("the values of the expression matrix", 3),
    "F": ("a file that cannot be read or written", 3),
    "G": ("genes", 3),
    "L": ("labels, batches and other columns", 3),
    "M": ("a model folder", 4),
    "N": ("the network", 7),
    "P": ("a plugin or an optional package", 5),
    "Q": ("a quality gate that was asked for", 9),
    "R": ("memory, disk, device or time", 6),
    "T": ("training that diverged", 8),
    "U": ("an argument or option", 2),
    "X": ("the program itself", 1),
}

#: Codes with an explanation of their own.
CODES: dict[str, str] = {
    "E-F27": "A folder or file cannot be written to. Nothing was computed or changed.",
    "E-P01": (
        "No installed plugin offers this name. `episome plugins` lists every name, and every "
        "plugin that could not be loaded."
    ),
    "E-P02": (
        "The plugin raised an error when it was imported, or something it needs is not installed. "
        "Other plugins are not affected. Update or reinstall it, or tell its authors."
    ),
    "E-P03": (
        "Two plugins claim one name, or a plugin claims a name of the host. Neither wins, so that "
        "installing a package never changes what a name means. The qualified name, `id:Name`, "
        "always works."
    ),
    "E-P04": "A plugin's command has the name of another command. The one that was there stays.",
    "E-P05": (
        "The plugin was written for another version of the plugin interface, or does not say for "
        "which (EPISOME_API in its module). Update the plugin or episome."
    ),
    "E-P06": (
        "A hook of the plugin has a wrong name, signature or result. Its authors have to mend it."
    ),
    "E-P14": "No plugin is installed, or the metadata of a distribution is damaged.",
    "E-U01": "The command or option does not exist, or a required one is missing.",
    "E-U02": "The value of an option is not one that it takes.",
    "E-U03": "The code to explain does not exist.",
    "E-U05": "A seed has to be a whole number of zero or more.",
    "E-U06": "A number of threads has to be a whole number of one or more.",
    "E-X01": (
        "A bug in episome. The crash report holds versions, the command and the place; no data."
    ),
    "E-X130": "The run was stopped by Ctrl-C.",
    "E-X143": "The run was stopped by SIGTERM.",
}


def explain(code: str) -> str | None:
    """Return what a code means; for one without a text of its own, what its family is about."""
    family = FAMILIES.get(code[2:3]) if code.startswith("E-") and code[3:].isdigit() else None
    if family is None:
        return None
    about = f"About {family[0]}. Exit code {family[1] if code not in _OTHER else _OTHER[code]}."
    return f"{CODES[code]} {about}" if code in CODES else f"{about} The message says the rest."


_OTHER = {"E-X130": 130, "E-X143": 143}
