"""The options of text2math's `generate`, from the call, a generation config and the defaults."""

from typing import Any

from transformers import GenerationConfig

NEUTRAL = ("transformers_version", "use_cache")  # of a generation config: whatever they say, programs are the same


def generation_options(given: dict[str, Any], config: GenerationConfig, max_new_tokens: int) -> dict[str, Any]:
    """Every option that the search has: as `given`, else as in `config`, else its default.

    TypeError for an option given that the search does not have; ValueError for one that `config` sets, as it would be
    ignored otherwise.
    """
    defaults = {
        "num_beams": 10,
        "num_return_sequences": 1,
        "max_new_tokens": max_new_tokens,
        "length_penalty": 0.0,
        "constrained": False,
        "return_dict_in_generate": False,
    }
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        raise TypeError(f"generate has no option {', '.join(unknown)}; it has {', '.join(defaults)}")
    if getattr(config, "do_sample", None):
        raise ValueError("do_sample=True: this model makes programs by beam search and does not sample")
    usual = vars(GenerationConfig())
    for name, value in vars(config).items():
        known = name in defaults or name in NEUTRAL or name.startswith("_") or name.endswith("token_id")
        if not known and value not in (None, False) and value != usual.get(name):
            raise ValueError(f"generation_config sets {name}={value!r}; generate follows {', '.join(defaults)}")
    chosen = {name: getattr(config, name, None) for name in defaults} | given
    return {name: defaults[name] if value is None else value for name, value in chosen.items()}


__all__ = ["generation_options"]
