"""Any bytes from outside are refused with a name, and python-tuf is still of the shape this is built on."""

from __future__ import annotations

import copy
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from gateway.errors import TransportError
from gateway.update.model import AttackError
from gateway.wire.uptane import ATTACKS
from tests.gateway.uptane.repos import Cloud, Repository, image
from tests.gateway.uptane.rig import Vehicle
from tests.support import LONG

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
ROLES = ("timestamp", "snapshot", "targets")


def attack(cloud: Cloud, repository: str, name: str, data: bytes | None) -> str:
    """One refresh of a new vehicle with that file replaced: the attack it was refused for, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        vehicle = Vehicle(cloud, Path(folder))
        fetcher = cloud.fetcher(faults={(repository, name): lambda _: data}, respects_limits=False)
        try:
            vehicle.refresh(fetcher)
        except AttackError as error:
            return ATTACKS[ATTACKS.index(error.attack)]
        except TransportError:
            return "not there"
        finally:
            vehicle.verifier.close()
    return ""


@pytest.fixture(scope="module")
def world() -> Cloud:
    """Both repositories with an update and a delegation on its way."""
    cloud = Cloud()
    cloud.image.delegate("supplier", ["supplier/*"])
    motor = image("supplier/motor", hardware=["motor-3"], kind="firmware")
    cloud.image.add_image(motor, role="supplier")
    cloud.director.assign(motor, "motor")
    cloud.publish()
    return cloud


@settings(max_examples=400 if LONG else 25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_f12_any_bytes_are_refused_with_the_name_of_an_attack(world: Cloud, data: st.DataObject) -> None:
    repository = data.draw(st.sampled_from(["director", "image"]))
    files = (world.director if repository == "director" else world.image).files
    name = data.draw(st.sampled_from(["timestamp.json", "2.snapshot.json", "2.targets.json", "2.root.json"]))
    good = files.get(name, b"")
    position = data.draw(st.integers(0, max(0, len(good) - 1)))
    made = data.draw(
        st.one_of(
            st.binary(max_size=200),
            JSON.map(lambda value: json.dumps(value).encode()),
            st.just(good[:position]),
            st.binary(min_size=1, max_size=4).map(lambda piece: good[:position] + piece + good[position + 1 :]),
            st.just(b"[" * 20_000),
        )
    )
    expected = attack(world, repository, name, made)
    assert expected or made == good or json.loads(made) == json.loads(good)


@settings(max_examples=400 if LONG else 40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_f12_well_signed_nonsense_is_refused_or_means_nothing(world: Cloud, data: st.DataObject) -> None:
    """The attacker has the keys of all roles but Root, and no taste: values of any type anywhere."""
    cloud = copy.copy(world)
    repository: Repository = copy.deepcopy(data.draw(st.sampled_from([world.director, world.image])))
    is_director = repository.files == world.director.files
    if is_director:
        cloud.director = repository  # type: ignore[assignment]  # the copy of one
    else:
        cloud.image = repository
    role = data.draw(st.sampled_from(ROLES))
    name = repository.current(role)
    content: dict[str, Any] = json.loads(repository.files[name])
    _mutate(content["signed"], data)
    signed = _Raw(content["signed"])
    try:
        made = repository.sign(signed, repository.signers[role])  # type: ignore[arg-type]  # only signed and written
    except Exception:
        return  # canonical JSON has no such value, so nobody can sign it
    result = attack(cloud, "director" if is_director else "image", name, made)
    assert result or made != repository.files[name]


class _Raw:
    """Something to be signed as it is."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.version = 1

    def to_dict(self) -> dict[str, Any]:
        return self.content


def _mutate(value: Any, data: st.DataObject) -> None:
    """Replace something somewhere below."""
    for _ in range(6):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if isinstance(value[key], dict | list) and value[key] and data.draw(st.booleans()):
            value = value[key]
            continue
        value[key] = data.draw(JSON)
        return


def test_python_tuf_has_the_shape_that_trust_is_built_on() -> None:
    """Private parts of python-tuf: a new version that changes them must be looked at, not just installed."""
    cloud = Cloud()
    trusted = TrustedMetadataSet(cloud.director_root, EnvelopeType.METADATA)
    assert trusted.root.version == 1
    assert hasattr(trusted, "reference_time")
    for name in ("update_root", "update_timestamp", "update_snapshot", "update_targets", "update_delegated_targets"):
        assert callable(getattr(trusted, name))
    assert not trusted.contains("targets", "root")
    assert tuple(int(part) for part in version("tuf").split(".")[:3]) >= (7, 0, 1), "7.0.0 has the diamond case"
