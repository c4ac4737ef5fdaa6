from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt.versions import Versions  # noqa: E402
from edgetuner.bundle import Bundle, write_bundle  # noqa: E402
from edgetuner.config import Config  # noqa: E402
from edgetuner.drift import Reference  # noqa: E402
from edgetuner.errors import BundleError, DriftError, RegistryError  # noqa: E402
from edgetuner.pipeline import Pipeline  # noqa: E402
from edgetuner.registry import Registry  # noqa: E402
from edgetuner.serving import Serving  # noqa: E402
from tests.adapt.material import renamed  # noqa: E402


@pytest.fixture
def registry(tmp_path: Path, wave_bundle: Path) -> Registry:
    registry = Registry(tmp_path / "models")
    registry.install(registry.add(wave_bundle))
    return registry


def versions(pipeline: Pipeline, registry: Registry, reuse: int = 3) -> Versions:
    config = Config.model_validate({"adapt": {"reuse": reuse}})
    return Versions(lambda: config, pipeline, registry, "cpu")


async def test_a_version_is_loaded_by_its_id_or_an_alias(
    pipeline: Pipeline, registry: Registry
) -> None:
    found = versions(pipeline, registry)
    champion = registry.aliases.champion
    assert champion is not None
    assert (await found.load(champion)).id == (await found.load("champion")).id == champion
    with pytest.raises(RegistryError, match="no such version"):
        await found.load("previous")


async def test_a_version_of_another_task_is_not_loaded(
    pipeline: Pipeline, registry: Registry, wave_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.load(wave_bundle)
    faster = bundle.manifest.description.model_copy(update={"hz": 64.0})
    other = registry.add(write_bundle(tmp_path / "other", replace(bundle), faster).path)
    with pytest.raises(RegistryError, match=rf"{other}: hz: another task .*got 64.0.* with 32.0"):
        await versions(pipeline, registry).load(other)


async def test_a_version_that_cannot_be_watched_is_not_loaded(
    pipeline: Pipeline, registry: Registry, wave_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.load(wave_bundle)
    blind = replace(Reference.from_arrays(bundle.reference), calibration=None).to_arrays()
    made = write_bundle(
        tmp_path / "b", replace(bundle, reference=blind), bundle.manifest.description
    )
    with pytest.raises(DriftError, match="thresholds"):
        await versions(pipeline, registry).load(registry.add(made.path))


async def test_a_damaged_version_is_not_loaded(pipeline: Pipeline, registry: Registry) -> None:
    (registry.path("champion") / "weights.safetensors").write_bytes(b"")
    with pytest.raises(BundleError):
        await versions(pipeline, registry).load("champion")


async def test_earlier_versions_have_proved_themselves_and_do_not_answer_now(
    pipeline: Pipeline, registry: Registry, tmp_path: Path
) -> None:
    first = pipeline.version.id
    made = []
    for n in range(1, 4):
        folder = tmp_path / f"v{n}"
        renamed(registry.path(made[-1] if made else first), folder, f"a{n}")
        made.append(registry.add(folder))
        registry.begin_probation(made[-1], "")
        if n < 3:
            registry.promote(made[-1], "")
    found = versions(pipeline, registry)
    assert found.earlier() == [made[1], made[0]], "the third is on probation, the first is live"
    live = await found.load(made[1])
    await pipeline.swap(Serving(live, (pipeline.version,)))
    assert found.earlier() == [made[0]], "nor is who answers beside the live one"
    await pipeline.swap(Serving(live))
    assert found.earlier() == [made[0], first]
    assert versions(pipeline, registry, reuse=1).earlier() == [made[0]]
    assert versions(pipeline, registry, reuse=0).earlier() == []
    shutil.rmtree(registry.path(made[0]))
    assert found.earlier() == [first], "what is gone cannot be asked"
