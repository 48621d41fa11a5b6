"""Every kind of file or setting, by name."""

from tests.fuzz import kinds_data, kinds_runs, kinds_weights
from tests.fuzz.oracle import Kind

KINDS: dict[str, Kind] = {
    "safetensors": Kind(kinds_weights.prepare_safetensors, kinds_weights.safetensors),
    "compressed": Kind(kinds_weights.prepare_compressed, kinds_weights.compressed),
    "configs": Kind(kinds_weights.prepare_configs, kinds_weights.configs),
    "tokenizers": Kind(kinds_data.prepare_tokenizers, kinds_data.tokenizers),
    "images": Kind(kinds_data.prepare_images, kinds_data.images),
    "rows": Kind(kinds_data.prepare_rows, kinds_data.rows),
    "workdirs": Kind(kinds_runs.prepare_workdirs, kinds_runs.workdirs),
    "checkpoints": Kind(kinds_runs.prepare_checkpoints, kinds_runs.checkpoints),
    "overrides": Kind(kinds_runs.prepare_overrides, kinds_runs.overrides),
}
