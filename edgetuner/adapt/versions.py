"""Versions on disk, as far as they may take the live one's place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgetuner.config import Config
from edgetuner.inference import ModelVersion
from edgetuner.pipeline import Pipeline, watch_with
from edgetuner.registry import Registry, check_same_task


class Versions:
    """Loads versions for the task of the live one, and for no other.

    Args:
        config: gives the configuration in force.
        pipeline: holds those who answer at present.
        registry: versions on disk.
        device: where they are loaded, `cpu` or `cuda`.
    """

    def __init__(
        self, config: Callable[[], Config], pipeline: Pipeline, registry: Registry, device: str
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._registry = registry
        self._device = device

    async def load(self, version: str) -> ModelVersion:
        """A version, given by its id or by an alias, hashes and all, off the hot path.

        Raises:
            RegistryError: it is unknown, or was made for another task than the live version.
            DriftError: its detectors have no thresholds, so that nobody could watch it.
            EdgetunerError: it is damaged; see `ModelVersion.load`.
        """
        path = self._registry.path(version)
        config = self._config()
        loaded = await asyncio.to_thread(
            lambda: ModelVersion.load(
                path,
                device=self._device,
                allow_factories=config.inference.allow_factories,
                drift=config.drift,
            )
        )
        check_same_task(loaded.manifest, self._pipeline.version.manifest)
        watch_with(config, loaded)
        return loaded

    def earlier(self) -> list[str]:
        """The latest versions that proved themselves, but for those who answer at present;
        `adapt.reuse` of them at most. Reads the disk.
        """
        serving = self._pipeline.serving
        present = {version.id for version in (serving.version, *serving.beside)}
        proven = [version for version in self._registry.proven() if version not in present]
        return proven[: self._config().adapt.reuse]
