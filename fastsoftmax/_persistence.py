"""Pickles: which version wrote one, and what is done about those of another version."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from sklearn.exceptions import InconsistentVersionWarning

from fastsoftmax._version import __version__

_KEY = "_fastsoftmax_version"
#: The version of a state that does not say.
_UNRECORDED = "before 0.1.0"


class OtherVersionWarning(InconsistentVersionWarning):
    """A pickle of another version of fastsoftmax was loaded.

    Attributes are those of scikit-learn's warning, and hold versions of fastsoftmax.
    """

    def __str__(self) -> str:
        return (
            f"This {self.estimator_name} was stored by fastsoftmax "
            f"{self.original_sklearn_version}, and this is {self.current_sklearn_version}. All "
            "that it needs is there, but may mean something else: compare its predictions with "
            "those that it made there, or fit it again."
        )


def stamped(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of an object with the version that wrote it."""
    return {**state, _KEY: __version__}


def loaded_estimator(
    estimator: Any, state: dict[str, Any], fitted: tuple[str, ...]
) -> dict[str, Any]:
    """Return what an estimator's attributes become.

    Parameters that its version did not have become their defaults, which stand for what was
    before.

    Parameters
    ----------
    estimator : estimator
        Without attributes as yet.
    state : dict
        What `stamped` returned, in whichever version.
    fitted : tuple of str
        Names that a fitted estimator needs.

    Raises
    ------
    ValueError
        If the state is of a later major version, or lacks what it needs.

    Warns
    -----
    OtherVersionWarning
        If the version is another.
    """
    attributes, version = _split(state)
    if version == __version__:
        return attributes
    name = type(estimator).__name__
    origin = f"This {name} was stored by fastsoftmax {version}"
    if _major(version) > _major(__version__):
        raise ValueError(
            f"{origin}, and {__version__} does not know what its attributes mean. Upgrade "
            "fastsoftmax, or store what `to_sklearn()` returns there."
        )
    is_fitted = any(attribute.endswith("_") for attribute in attributes)
    missing = [attribute for attribute in fitted if attribute not in attributes]
    if is_fitted and missing:
        raise ValueError(
            f"{origin} and lacks {', '.join(missing)}, without which {__version__} cannot use it. "
            "Fit it again, or load it with that version and store what `to_sklearn()` returns."
        )
    warning = OtherVersionWarning(
        estimator_name=name,
        current_sklearn_version=__version__,
        original_sklearn_version=version,
    )
    warnings.warn(warning, stacklevel=3)
    parameters = inspect.signature(type(estimator)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return defaults | attributes


def loaded_exactly(kind: str, state: dict[str, Any]) -> dict[str, Any]:
    """Return what the attributes of an object become that only its own version can load.

    Raises
    ------
    ValueError
        If the version is another.
    """
    attributes, version = _split(state)
    if version != __version__:
        raise ValueError(
            f"This {kind} was stored by fastsoftmax {version} and this is {__version__}. It holds "
            "data as that version lays them out: make it anew, from the data."
        )
    return attributes


def _split(state: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the attributes of a state, and its version."""
    attributes = dict(state)
    return attributes, str(attributes.pop(_KEY, _UNRECORDED))


def _major(version: str) -> int:
    number = version.partition(".")[0]
    return int(number) if number.isdecimal() else 0
