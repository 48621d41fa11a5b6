"""Names of classes."""


def class_name(names: tuple[str, ...], number: int) -> str:
    """Name of a class: its number where there are fewer names."""
    return names[number] if number < len(names) else str(number)
