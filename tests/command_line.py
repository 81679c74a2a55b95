"""Settings as words of the command line."""

from dataclasses import fields

from sparsedis.metalearn.config import TrainConfig


def options(config: TrainConfig) -> list[str]:
    """Every setting, whether or not it is the default; flags that are off and empty lists have no words."""
    words = []
    for field in fields(config):
        value, option = getattr(config, field.name), "--" + field.name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not False and value != ():
            words += [option, *map(str, value if isinstance(value, tuple) else (value,))]
    return words
