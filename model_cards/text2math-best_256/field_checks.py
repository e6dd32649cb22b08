"""Checks of configuration fields that every family's configuration uses."""


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raise `ValueError` naming the field, its value and what it must be, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{field}={value!r} is not possible: it must be {allowed}")


def is_integer(value: object, minimum: int) -> bool:
    """Whether `value` is an integer (no bool) of at least `minimum`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum
