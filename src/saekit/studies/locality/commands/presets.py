"""`saekit locality presets`: models with published SAEs."""

from saekit.studies.locality.commands import app
from saekit.terminal.common_options import AsJson
from saekit.terminal.output import emit


@app.command("presets")
def presets(as_json: AsJson = False) -> None:
    """List published models with SAEs, and what the published locality code forgets for each.

    Example: saekit locality presets
    """
    from saekit.studies.locality.presets import PRESETS

    found = [preset.to_dict() for preset in PRESETS.values()]
    lines = [
        f"{p['key']:<14} {p['model']:<34} {p['architecture']:<9} {p['sae_format']:<20} "
        f"{p['repo'] or 'your own'}"
        for p in found
    ]
    emit({"presets": found}, as_json=as_json, lines=lines)
