"""Models that visitors of a public page made or brought: each is found by its owner alone."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Owner:
    """Who may use what a visitor of a public page made: the session that made it, and each that
    shows its key, such as the same page after a reload."""

    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    sessions: set[str] = field(default_factory=set)

    def admits(self, visitor: str | None, key: str = "") -> bool:
        """Whether the session `visitor` may use it, now and later. None is a thread of ours."""
        if visitor is None:
            return True
        if visitor and secrets.compare_digest(key.encode(), self.key.encode()):
            self.sessions.add(visitor)
        return visitor in self.sessions


@dataclass(frozen=True)
class PrivateModel:
    """A model that a stranger trained or brought on a public page."""

    path: Path
    owner: Owner = field(default_factory=Owner)


@dataclass
class PrivateModels:
    """The models by names that can't be guessed. `visitor` gives the session that asks; None where
    it is no visitor but a thread of ours."""

    visitor: Callable[[], str | None]
    _models: dict[str, PrivateModel] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._models))

    def keep(self, name: str, path: Path) -> Owner:
        """A model for the session that asks alone."""
        owner = Owner(sessions=set(filter(None, [self.visitor()])))
        self._models[name] = PrivateModel(path, owner)
        return owner

    def restore(self, name: str, path: Path, owner: Owner) -> None:
        """A model that an earlier page had begun; its owner shows the key."""
        self._models[name] = PrivateModel(path, owner)

    def move(self, name: str, path: Path) -> None:
        """The model lies elsewhere now."""
        self._models[name] = replace(self._models[name], path=path)

    def forget(self, name: str) -> PrivateModel | None:
        """Let nobody find it any more."""
        return self._models.pop(name, None)

    def lies_at(self, name: str) -> Path | None:
        """Where a model lies, whoever asks."""
        found = self._models.get(name)
        return found.path if found else None

    def may_use(self, name: str) -> bool:
        """True for a model of the session that asks."""
        found = self._models.get(name)
        return found is not None and found.owner.admits(self.visitor())

    def path(self, name: str) -> Path | None:
        """Where a model lies, for who may use it."""
        return self.lies_at(name) if self.may_use(name) else None

    def handle(self, name: str) -> str:
        """What the browser of its owner keeps of a model: `name:key`."""
        return f"{name}:{self._models[name].owner.key}"

    def opened(self, handles: Any) -> list[str]:
        """The models that these handles open for the session that asks. The browser keeps them, so
        they may be anything."""
        names = []
        for handle in handles if isinstance(handles, list) else []:
            name, _, key = handle.partition(":") if isinstance(handle, str) else ("", "", "")
            found = self._models.get(name)
            if found and found.owner.admits(self.visitor(), key):
                names.append(name)
        return list(dict.fromkeys(names))
