"""What a visitor may see of the models, and may do with them: the Models tab's work.

On a public page a visitor's models belong to their sessions (see `private_models.Owner`): their
owner may do with them what they like, and nobody can do anything with another's.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradio.utils import get_upload_folder

from vgg.checkpoints.class_names import split_names
from vgg.checkpoints.file_names import CONFIG_FILE
from vgg.checkpoints.library import (
    PUBLIC_COST,
    ModelFacts,
    bytes_of,
    delete_model,
    facts_of,
    import_model,
    losses,
    plain_name,
    rename_model,
)
from vgg.checkpoints.loading import STARTER, find_config
from vgg.data.zips import ZipLimits
from vgg.downloads import cached_weights
from vgg.errors import UserError
from vgg.network.config import IMAGENET_NAMES
from vgg.network.summary import count_parameters
from vgg.ui import markup
from vgg.ui.server.choice import NEW, Choice
from vgg.ui.server.jobs import Jobs
from vgg.ui.server.model_store import ModelStore
from vgg.ui.server.uploads import uploaded
from vgg.ui.words import size_text

if TYPE_CHECKING:
    from vgg.export.bundle import Bundle

log = logging.getLogger(__name__)

# What strangers may ask of a public page.
PUBLIC_LIMITS = ZipLimits(max_entries=1000, max_bytes=512 * 1024**2, max_file_bytes=512 * 1024**2)
EXPORT_PREFIX = "export-"
EXPORT_SECONDS = 3600  # for which an exported zip is kept


@dataclass(frozen=True)
class TableRow:
    """One line of the table. `key` is what `ModelStore.spec_of` takes."""

    key: str
    label: str
    facts: ModelFacts
    kind: str  # where it comes from, for people; empty for a model of one's own


def rows(store: ModelStore, keys: list[str]) -> list[TableRow]:
    """The models that this visitor may see: their own first, then those that all have."""
    own = [key for key in keys if store.private.may_use(key)] if store.settings.public else []
    listed = [(key, "") for key in own]
    shared = "" if not store.settings.public else "of this page"
    listed += [(name, shared) for name in store.own_models()]
    if store.first_name not in {STARTER, *IMAGENET_NAMES, *(name for name, _ in listed)}:
        listed.append((store.first_name, "given at the start"))
    listed.append((STARTER, "comes with the program"))
    listed += [(name, "ImageNet") for name in IMAGENET_NAMES if store.is_here(name)]
    found = []
    for key, kind in listed:
        try:
            path = _path(store, key)
            config = find_config(store.spec_of(key), weights_dir=store.settings.weights_dir)
            found.append(TableRow(key, store.label(key), facts_of(config, path), kind))
        except (OSError, ValueError) as error:  # it goes while we look, or was never whole
            log.warning("a model is left out: %s", type(error).__name__)
    return found


def table(found: list[TableRow], chosen: str) -> str:
    """The rows as HTML; the one in hand is marked."""
    lines = []
    for row in found:
        config, facts = row.facts.config, row.facts
        norm = "" if config.batch_norm else ", no batch norm"
        kind = f"<small>{escape(row.kind)}</small>" if row.kind else ""
        accuracy = "–"
        if facts.accuracy and config.trained:
            share, count, (low, high) = facts.accuracy
            interval = f"95 % interval: {100 * low:.1f} to {100 * high:.1f} %"
            accuracy = f"<span title='{interval}'>{100 * share:.1f} % of {count}</span>"
        day = time.strftime("%Y-%m-%d", time.localtime(facts.changed)) if facts.changed else "–"
        pressed = "true" if row.key == chosen else "false"
        lines.append(
            f"<tr class='{'in-hand' if row.key == chosen else ''}'><th scope='row'>"
            f"<button type='button' data-key='{escape(row.key)}' aria-pressed='{pressed}'>"
            f"{escape(row.label)}</button>{kind}</th>"
            f"<td>VGG-{config.depth}{norm}, {config.head}</td><td>{config.num_classes}</td>"
            f"<td>{accuracy}</td><td>{size_text(facts.bytes)}</td><td>{day}</td></tr>"
        )
    columns = [
        ("Model", ""),
        ("Network", "layers with weights, and what reads the last maps"),
        ("Classes", ""),
        ("Accuracy", "on held-out pictures"),
        ("Size", ""),
        ("Date", ""),
    ]
    return markup.table(columns, "".join(lines), "models")


def disk_use(store: ModelStore, found: list[TableRow]) -> str:
    """What models and kept outputs take; on a public page only what is the visitor's own."""
    own = [row for row in found if not row.kind]
    total = sum(row.facts.bytes or 0 for row in own)
    count = f"{len(own)} model{'' if len(own) == 1 else 's'} of your own"
    parts = [f"{count} take{'s' if len(own) == 1 else ''} {size_text(total)}"]
    if not store.settings.public:
        from vgg.data.cache import cache_dir

        kept = bytes_of(cache_dir())
        parts.append(f"outputs of frozen trunks, kept for the next training, {size_text(kept)}")
        if store.home.is_dir():
            parts.append(f"{size_text(shutil.disk_usage(store.home).free)} are free")
    return markup.quiet(f"{'; '.join(parts)}.")


def may_change(store: ModelStore, name: str) -> bool:
    """True for a model that this visitor may rename and delete."""
    if store.settings.public:
        return store.private.may_use(name)
    return name in store.own_models() and name != store.first_name


def may_take(store: ModelStore, name: str) -> bool:
    """True for a model that this visitor may export and push."""
    return not store.settings.public or store.private.may_use(name) or name == STARTER


def rename(store: ModelStore, choice: Choice, name: str) -> str:
    """Rename the model in hand; returns what the page calls it from now on."""
    folder = _own_folder(store, choice)
    renamed = rename_model(folder, name)
    if choice.model in store.private:
        store.private.move(choice.model, renamed)
        return choice.model
    return renamed.name


def question(store: ModelStore, choice: Choice) -> str:
    """What is lost if the model in hand is deleted, as HTML."""
    lost = losses(_own_folder(store, choice))
    items = "".join(f"<li>{escape(item)}</li>" for item in lost)
    name = escape(store.label(choice.model))
    return f"<p>Delete “{name}”? It can't be brought back. Lost will be:</p><ul>{items}</ul>"


def delete(store: ModelStore, choice: Choice) -> None:
    """Delete the model in hand."""
    delete_model(_own_folder(store, choice))
    if found := store.private.forget(choice.model):
        shutil.rmtree(found.path.parent, ignore_errors=True)  # named as the model's name here


def bring_in(
    store: ModelStore,
    jobs: Jobs,
    file: str,
    name: str,
    *,
    class_names: str = "",
    on_note: Callable[[str], None] | None = None,
) -> str:
    """Import an uploaded checkpoint; returns what the page calls it. `class_names` are typed, one a
    line or between commas; `on_note` gets sentences on what was taken for what."""
    # Gradio does not look at the path of a file that its sender does not mark as one.
    given = uploaded(file) if store.settings.public else Path(file)
    names = split_names(class_names)
    out, key = jobs.place_for(name.strip() or plain_name(given))
    if not store.settings.public:
        import_model(given, out, class_names=names, on_note=on_note)
        return out.name
    jobs.make_room()
    import_model(
        given,
        out,
        limits=PUBLIC_LIMITS,
        pickles=False,
        most=PUBLIC_COST,
        class_names=names,
        on_note=on_note,
    )
    store.private.keep(key, out)
    return key


def export(
    store: ModelStore, choice: Choice, on_event: Callable[[dict[str, Any]], None]
) -> "Bundle":
    """Export the model in hand; returns the bundle, whose zip lies where Gradio serves it."""
    name = _taken(store, choice)
    config = store.config(choice)
    most = store.settings.limits.export_mb
    if store.settings.public and 8 * count_parameters(config) > most * 1e6:
        raise UserError("ui.large_export", megabytes=most)
    from vgg.export.bundle import export_bundle

    # A folder of its own: its random name keeps strangers from guessing the address.
    Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
    _forget_old_exports()
    scratch = Path(tempfile.mkdtemp(prefix=EXPORT_PREFIX, dir=get_upload_folder()))
    label = store.label(name)
    try:
        bundle = export_bundle(
            store.spec_of(name),
            scratch / label,
            weights_dir=store.settings.weights_dir,
            on_event=on_event,
        )
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(bundle.folder, ignore_errors=True)  # the zip has it all
    return bundle


def _forget_old_exports() -> None:
    for folder in Path(get_upload_folder()).glob(f"{EXPORT_PREFIX}*"):
        with suppress(FileNotFoundError):  # another visitor's export removes it, too
            if time.time() - folder.stat().st_mtime > EXPORT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def push(
    store: ModelStore,
    choice: Choice,
    to: str,
    token: str,
    private: bool,
    on_event: Callable[[dict[str, Any]], None],
) -> str:
    """Push the model in hand to the Hub; returns the address. With the token that was typed only:
    that of the machine is its owner's."""
    name = _taken(store, choice)
    if not token.strip():
        raise UserError("ui.token")
    if not to.strip():
        raise UserError("ui.where_to_push")
    from vgg.export.hub import push as push_model

    return push_model(
        store.spec_of(name),
        to.strip(),
        token=token.strip(),
        private=bool(private),
        weights_dir=store.settings.weights_dir,
        on_event=on_event,
    )


def words(event: dict[str, Any]) -> str:
    """What an event of an export or a push says to a person."""
    if event.get("kind") == "send":
        return f"sending {event['files']} files, {size_text(event['bytes'])}"
    return str(event.get("message") or "one moment")


def _own_folder(store: ModelStore, choice: Choice) -> Path:
    if choice.model == store.first_name and choice.model in store.own_models():
        raise UserError("ui.first_model")
    if not may_change(store, choice.model):
        raise UserError("ui.not_yours")
    folder = _path(store, choice.model)
    if folder is None or not (folder / CONFIG_FILE).is_file():
        raise UserError("ui.not_ready")
    return folder


def _taken(store: ModelStore, choice: Choice) -> str:
    if choice.model == NEW or not store.config(choice).trained:
        raise UserError("ui.nothing_to_take")
    name = store.name(choice)
    if not may_take(store, name):
        raise UserError("ui.not_yours_to_take")
    if not store.is_here(name):
        raise UserError("ui.not_here", name=name)
    return name


def _path(store: ModelStore, name: str) -> Path | None:
    """Where a model lies: its folder, or its file of weights."""
    found = store.lies_at(name)
    return cached_weights(name) if found is None and name in IMAGENET_NAMES else found
