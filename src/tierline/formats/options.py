"""The options of a format's name: `group=64,scale=bf16` taken one by one, leftovers refused."""

from collections.abc import Sequence

from tierline.errors import InputError

LARGEST_GROUP = 2**20


class Options:
    """What follows the colon of a format's name. Each taker records what may be given, for the messages."""

    def __init__(self, text: str, written: str) -> None:
        self._text = text
        self._known: list[str] = []
        self._given: dict[str, str] = {}
        for part in written.split(",") if written else []:
            key, equals, value = part.partition("=")
            if key in self._given or not key or (equals and not value):
                raise InputError(
                    f"format {text!r}: cannot read the option {part!r}; write name:key=value,flag"
                )
            self._given[key] = value

    def flag(self, key: str) -> bool:
        """Take an option without a value; return whether it was given."""
        self._known.append(key)
        value = self._given.pop(key, None)
        if value:
            raise InputError(f"format {self._text!r}: {key} takes no value, but got {value!r}")
        return value is not None

    def count(self, key: str, default: int) -> int:
        """Take a whole number from 1 to LARGEST_GROUP."""
        self._known.append(f"{key}=N")
        value = self._given.pop(key, None)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= LARGEST_GROUP):
            raise InputError(
                f"format {self._text!r}: {key}={value}: want a whole number, 1 to {LARGEST_GROUP:,}"
            )
        return int(value)

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """Take one of several words; return `default` where none was given."""
        self._known.append(f"{key}={'|'.join(choices)}")
        value = self._given.pop(key, None)
        if value is None:
            return default
        if value not in choices:
            raise InputError(f"format {self._text!r}: {key}={value}: want one of {', '.join(choices)}")
        return value

    def refuse(self, why: str) -> InputError:
        """Return the error for options that do not go together."""
        return InputError(f"format {self._text!r}: {why}")

    def finish(self) -> None:
        """Raise InputError if anything was given that nothing took."""
        if self._given:
            known = f"it takes {', '.join(self._known)}" if self._known else "it takes none"
            raise InputError(f"format {self._text!r}: no option {', '.join(self._given)}; {known}")


def written_name(name: str, *options: str) -> str:
    """Return the canonical name with the options that are not empty."""
    given = ",".join(option for option in options if option)
    return f"{name}:{given}" if given else name
