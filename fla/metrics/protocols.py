"""Named scoring protocols: what is done to a text before it is counted, and how it is counted.

Same outputs score between 13 and 16 BLEU-4 by convention alone, so every number belongs to one of
these, and its signature says which.
"""

from dataclasses import dataclass

from fla.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One convention, as a value."""

    name: str
    version: int
    """Rises when the same texts would get another score."""


_ALL = (Protocol(name="text", version=1),)

PROTOCOLS = {protocol.name: protocol for protocol in _ALL}
"""All protocols, by name."""


def find_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in PROTOCOLS:
        raise ConfigError(
            f"metrics.protocol ({name}): there is no such protocol. Use one of "
            f"{', '.join(PROTOCOLS)}."
        )
    return PROTOCOLS[name]
