"""`push`: a model becomes a repository on the Hugging Face Hub; and what `deploy` shares with it.

A push is one commit: all files of the model, or nothing that anybody can see.
"""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg.checkpoints.file_names import CARD_FILE, CONFIG_FILE, METRICS_FILE, WEIGHTS_FILE
from vgg.checkpoints.loading import find_weights, name_classes
from vgg.data.temporary import temporary
from vgg.downloads import is_broken_connection, why_unreachable
from vgg.errors import UserError
from vgg.export.model_card import fits_timm, model_card
from vgg.network.config import ModelConfig, dump_config, is_architecture

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKENS_PAGE = "https://huggingface.co/settings/tokens"
FROM_THE_HUB = ".gitattributes"  # what the Hub puts into a new repository

Event = dict[str, Any]


def push(
    spec: str | Path,
    to: str,
    *,
    token: str | None = None,
    private: bool = False,
    weights_dir: Path | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> str:
    """Put the model that `spec` names into the Hub repository `to` (`owner/name`); returns its URL.

    `token` is the caller's own and may write; no other is looked for. A repository that is not
    there is made, `private` or not; one that holds a model of ours gets a new commit; one that
    holds something else is refused. A network with head `fc` and full width is written in timm's
    layout. `on_event` gets a dict whose `kind` is `send` (with `files` and `bytes`) or `done`.
    A `ValueError` says in one sentence what went wrong; then nothing of it can be seen on the Hub.

        push("weights/photos", "ada/photos", token="hf_…", private=True)
    """
    tell = on_event or (lambda event: None)
    check_name(to)
    check_token(token)
    path = find_weights(spec, weights_dir=weights_dir)
    with temporary("push") as scratch:
        folder = write_model(path, scratch / "model", name=str(spec), repo_id=to)
        files: dict[str, Path | bytes] = {f.name: f for f in sorted(folder.iterdir())}
        with hub_errors(to):
            api = sign_in(token)
            is_new = check_free(api, to, "model", private=private, is_ours=_is_our_model)
            if is_new:
                api.create_repo(to, private=private, exist_ok=True)
            total = sum(file.stat().st_size for file in folder.iterdir())
            tell({"kind": "send", "files": len(files), "bytes": total})
            commit(api, to, "model", files, message="Model of VGG Studio")
    url = f"{api.endpoint}/{to}"
    tell({"kind": "done", "url": url})
    return url


def write_model(path: Path, folder: Path, *, name: str, repo_id: str | None = None) -> Path:
    """Write the checkpoint at `path` into the new `folder`: weights, config and, for a `repo_id`, a
    card.

    For a repository, a network that timm has as well is written in its layout. Returns the folder.
    """
    from safetensors.torch import save_file

    from vgg.checkpoints.folder import Checkpoint, build_model, read_checkpoint
    from vgg.checkpoints.key_conversion import to_timm

    found = read_checkpoint(path)
    state, config = found.state, name_classes(name, found.config)
    build_model(Checkpoint(state, config))  # refuses weights that do not fit the config
    text = dump_config(config)
    if repo_id and fits_timm(config):
        state = to_timm(state, temperature=config.temperature)
        text = json.dumps(timm_config(config), indent=2, ensure_ascii=False) + "\n"
    folder.mkdir()
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    if repo_id:
        card = model_card(ModelConfig.from_json(json.loads(text)), metrics=_metrics(path),
                          repo_id=repo_id)  # fmt: skip
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return folder


def timm_config(config: ModelConfig) -> dict[str, Any]:
    """`config.json` with what timm and transformers read besides our own fields. The temperature
    is in the weights, see `to_timm`."""
    data = config.to_json()
    data.pop("temperature", None)
    data["pretrained_cfg"] |= {
        "num_classes": config.num_classes,
        "pool_size": [config.pool, config.pool],
        "first_conv": "features.0",
        "classifier": "head.fc",
    }
    return data


def _metrics(path: Path) -> dict[str, Any]:
    """What the model's training measured; empty where there is no such file."""
    file = path / METRICS_FILE
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


# What push and deploy share


def check_name(to: str) -> None:
    """Refuse what is no `owner/name` of a repository."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        if to.count("/") != 1:
            raise HFValidationError("owner/name is expected")
        validate_repo_id(to)
    except HFValidationError as error:
        raise UserError("export.repository", name=to) from error


def check_token(token: str | None) -> None:
    """The caller's own token, or nothing is done: another's would act in another's name."""
    if not token or not token.strip():
        raise UserError("export.token", page=TOKENS_PAGE)


def sign_in(token: str | None) -> "HfApi":
    """A client that acts with this token and no other, once the Hub knows it and lets it write."""
    from huggingface_hub import HfApi, constants

    # The Hub's Xet transfer needs servers of its own; plain uploads work wherever the Hub does.
    constants.HF_HUB_DISABLE_XET = True
    check_token(token)
    if why := why_unreachable("api/whoami-v2", token=False):
        raise UserError("export.not_sent", why=why)
    api = HfApi(token=(token or "").strip(), endpoint=constants.ENDPOINT)
    access = api.whoami().get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        raise UserError("export.reading_token", page=TOKENS_PAGE)
    return api


def check_free(
    api: "HfApi",
    to: str,
    kind: str,
    *,
    private: bool,
    is_ours: Callable[["HfApi", str, Collection[str]], bool],
) -> bool:
    """True where there is no such repository yet. `ValueError` for one that holds what is not ours,
    or that all can see where it was to be private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(to, repo_type=kind)
    except RepositoryNotFoundError:
        return True
    there = {sibling.rfilename for sibling in getattr(info, "siblings", None) or ()}
    there -= {FROM_THE_HUB}
    if there and not is_ours(api, to, there):
        raise UserError("export.other_repository", name=to)
    if private and not info.private:
        raise UserError("export.public", name=to)
    return False


def commit(
    api: "HfApi",
    to: str,
    kind: str,
    files: dict[str, Path | bytes],
    *,
    message: str,
    stale: Collection[str] = (),
) -> None:
    """Send files and take stale ones away, all in one commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationAdd(name, source) for name, source in files.items()]
    operations += [CommitOperationDelete(name) for name in stale]
    api.create_commit(to, operations, commit_message=message, repo_type=kind)


def _is_our_model(api: "HfApi", to: str, there: Collection[str]) -> bool:
    """True where the repository's config.json is one that `push` writes."""
    if "config.json" not in there:
        return False
    with temporary("push") as scratch:
        file = api.hf_hub_download(to, "config.json", local_dir=scratch)
        try:
            data = json.loads(Path(file).read_text(encoding="utf-8"))
        except ValueError:
            return False
    return isinstance(data, dict) and "head" in data and is_architecture(data.get("architecture"))


@contextmanager
def hub_errors(to: str) -> Iterator[None]:
    """Say in a sentence what the Hub's client reports in many."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise _refusal(to, error) from error
    except OSError as error:
        raise _broken(to) from error
    except Exception as error:
        # The client wraps some of them in an error of its own.
        if any(is_broken_connection(e) for e in (error, error.__cause__) if e):
            raise _broken(to) from error
        raise


def _broken(to: str) -> UserError:
    return UserError("export.broke_off", name=to)


def _refusal(to: str, error: Any) -> UserError:
    status = error.response.status_code if error.response is not None else 0
    said = " ".join(str(error.server_message or "").split())[:200]
    if status == 401:
        return UserError("export.unknown_token", page=TOKENS_PAGE)
    if status in (403, 404):
        return UserError("export.not_allowed", name=to, page=TOKENS_PAGE)
    if status == 402:
        return UserError("export.paid", said=said)
    if status == 429:
        return UserError("export.too_many")
    if status >= 500:
        return UserError("export.hub_error", status=status)
    return UserError("export.refused", name=to, status=status, said=said)
