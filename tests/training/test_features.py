"""Facts about the frozen trunk's outputs: right, computed once, and safe on disk."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vgg.data.cache import FeatureStore, cache_dir, trim
from vgg.data.files import digest_of, in_threads
from vgg.data.images import read_image
from vgg.data.reading import LoadedPicture, empty_pixels, load_picture
from vgg.data.room import memory_available
from vgg.data.shapes import draw_folder
from vgg.data.transforms import normalise, to_uint8
from vgg.errors import UserError
from vgg.network.config import Preprocessing
from vgg.network.vgg import VGG
from vgg.training.features import Trunk, extract, with_head

CFG = Preprocessing(input_size=(3, 32, 32), crop_mode="border", crop_pct=1.0)
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("own_places")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    draw_folder(tmp_path / "shapes", count=2, size=40)
    return sorted((tmp_path / "shapes").rglob("*.png"))


def network(head: str = "gap", *, batch_norm: bool = True) -> VGG:
    """A small VGG-11 whose batch norms have seen something."""
    torch.manual_seed(0)
    model = VGG(11, 3, head=head, width=0.06, batch_norm=batch_norm)
    model(torch.randn(8, 3, 32, 32))
    return model.eval()


@pytest.mark.parametrize("head", ["gap", "stages", "fc"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_trunk_gives_what_the_last_layer_of_the_network_reads(
    files: list[Path], head: str, batch_norm: bool
) -> None:
    model = network(head, batch_norm=batch_norm)
    read: list[torch.Tensor] = []
    model.classifier[-1].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    pixels = torch.stack([to_uint8(read_image(file), CFG) for file in files])
    with torch.inference_mode():
        model(normalise(pixels, CFG))
    features = Trunk(model, head, CFG, device=CPU)(pixels)
    assert features.dtype == np.float16
    assert np.allclose(features, read[0].numpy(), rtol=1e-2, atol=1e-3)


def test_a_network_with_another_head_shares_the_trunk_and_answers_the_same_for_all() -> None:
    model = network("fc")
    other = with_head(model, "stages", 5, CFG, tuple("abcde"))
    assert other.features[0].weight.data_ptr() == model.features[0].weight.data_ptr()
    assert other.config.label_names == tuple("abcde")
    with torch.inference_mode():
        assert other(torch.randn(2, 3, 32, 32)).abs().max() == 0


def test_fully_connected_layers_are_not_made_up() -> None:
    with pytest.raises(ValueError, match="choose the head gap or stages"):
        Trunk(network("gap"), "fc", CFG, device=CPU)


def loaded(files: list[Path]) -> list[tuple[str, LoadedPicture]]:
    """Pictures with the digests of their files."""
    return [
        (digest_of(file.read_bytes()), load_picture(file, CFG, with_fingerprint=True))
        for file in files
    ]


def run_twice(files: list[Path]) -> tuple[int, int]:
    """How many pictures go through the first layer of a trunk at the first and second time."""
    counts = []
    for _ in range(2):
        trunk = Trunk(network(), "gap", CFG, device=CPU)
        passed: list[int] = []
        trunk.network.features[0].register_forward_hook(
            lambda _, args, out, passed=passed: passed.append(len(out))
        )
        pictures = loaded(files)
        known = trunk.store.read(digest for digest, _ in pictures)
        list(extract(trunk, [item for item in pictures if item[0] not in known]))
        counts.append(sum(passed))
    return counts[0], counts[1]


def test_a_second_time_the_trunk_does_not_run(files: list[Path]) -> None:
    assert run_twice(files) == (len(files), 0)


def test_what_is_kept_is_what_was_computed(files: list[Path]) -> None:
    trunk = Trunk(network(), "gap", CFG, device=CPU)
    seen = list(extract(trunk, loaded(files)))
    kept = trunk.store.read([item.digest for item in seen])
    for item in seen:
        assert np.array_equal(kept[item.digest], item.features)
        assert item.picture.fingerprint["digest"].item().decode() == item.digest


def test_other_weights_sizes_heads_and_precisions_have_stores_of_their_own() -> None:
    other = network()
    with torch.no_grad():
        other.features[0].weight[0, 0, 0, 0] += 1e-4
    larger = Preprocessing(input_size=(3, 48, 48), crop_mode="border", crop_pct=1.0)
    trunks = [
        Trunk(network(), "gap", CFG, device=CPU),
        Trunk(other, "gap", CFG, device=CPU),
        Trunk(network(), "stages", CFG, device=CPU),
        Trunk(network(), "gap", larger, device=CPU),
        Trunk(network(), "gap", CFG, device=CPU, dtype=torch.bfloat16),
    ]
    assert len({trunk.key for trunk in trunks}) == len(trunks)
    again = network()
    nn.init.ones_(again.classifier[-1].weight)  # the last layer is no part of the trunk
    assert Trunk(again, "gap", CFG, device=CPU).key == trunks[0].key


def test_leaving_the_loop_keeps_what_is_done(files: list[Path]) -> None:
    trunk = Trunk(network(), "gap", CFG, device=CPU)
    work = extract(trunk, loaded(files))
    digests = [next(work).digest for _ in range(5)]
    work.close()
    assert set(trunk.store.read(digests)) == set(digests)


def test_an_unreadable_picture_does_not_stop_the_others(files: list[Path]) -> None:
    files[3].write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    seen = list(extract(Trunk(network(), "gap", CFG, device=CPU), loaded(files)))
    assert [k for k, item in enumerate(seen) if item.features is None] == [3]
    assert seen[3].picture.error


def test_a_damaged_file_of_the_cache_is_ignored_and_removed() -> None:
    store = FeatureStore("things", np.dtype(np.float32), (3,))
    store.write({"a" * 32: np.ones(3), "b" * 32: np.zeros(3)})
    (file,) = store.folder.glob("*.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert store.read(["a" * 32]) == {}
    assert not file.exists()


def test_only_what_this_program_wrote_leaves_the_cache() -> None:
    others = [cache_dir() / name for name in ("mine.npy", "data/mine.npy", "data/mine.part")]
    for file in others:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"mine")
    store = FeatureStore("things", np.dtype(np.float32), (3,))
    store.write({"a" * 32: np.ones(3)})
    beside = [store.folder / name for name in ("mine.npy", "mine.part")]
    for file in beside:
        file.write_bytes(b"mine")
    abandoned = store.folder / "rows-x.part"
    abandoned.touch()
    for file in (*others, *beside, abandoned):
        os.utime(file, (0, 0))
    assert store.read(["a" * 32])
    trim(0)
    assert all(file.exists() for file in (*others, *beside))
    assert not abandoned.exists()
    assert not store.read(["a" * 32])
    for file in (*others, *beside):
        file.unlink()


def test_a_cache_that_holds_pickles_is_not_unpickled(tmp_path: Path) -> None:
    store = FeatureStore("things", np.dtype(np.float32), (3,))
    store.write({"a" * 32: np.ones(3)})
    np.save(store.folder / f"{'c' * 32}.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert set(store.read(["a" * 32])) == {"a" * 32}


def test_a_cache_that_can_not_be_written_costs_nothing_but_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("VGG_STUDIO_CACHE", str(tmp_path / "a file"))
    store = FeatureStore("things", np.dtype(np.float32), (3,))
    store.write({"a" * 32: np.ones(3)})
    assert store.read(["a" * 32]) == {}


def test_what_was_not_used_for_longest_leaves_the_cache_first() -> None:
    store = FeatureStore("things", np.dtype(np.float32), (250,))
    for number in range(4):
        store.write({f"{number}" * 32: np.full(250, number)})
        newest = max(store.folder.glob("*.npy"), key=lambda file: file.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    store.read(["0" * 32])  # the oldest is used now
    size = newest.stat().st_size
    trim(2 * size)
    assert set(store.read(f"{number}" * 32 for number in range(4))) == {"0" * 32, "3" * 32}


def test_the_cache_lies_where_this_system_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == Path(os.environ["VGG_STUDIO_CACHE"])
    monkeypatch.delenv("VGG_STUDIO_CACHE")
    assert cache_dir().name == "vgg-studio"


def test_threads_give_results_in_order_and_a_bounded_number_ahead() -> None:
    started: list[int] = []
    results = in_threads(lambda k: started.append(k) or k * k, iter(range(1000)), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(started) < 20
    results.close()


def test_a_full_disk_is_a_sentence_before_anything_is_written(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_STUDIO_CACHE", str(small_disk))
    monkeypatch.setattr("tempfile.tempdir", str(small_disk / "not there"))  # never there
    empty_pixels(50, 64, free=1000)[:] = 1  # 0.6 MB
    with pytest.raises(UserError, match=r"has 1 of the 2 MB that they take; make room"):
        empty_pixels(200, 64, free=1000)
    (small_disk / "full").write_bytes(bytes(1_040_000))
    store = FeatureStore("things", np.dtype(np.float32), (30_000,))
    store.write({"a" * 32: np.ones(30_000)})
    assert store.read(["a" * 32]) == {}
    assert not list(store.folder.glob("*.part"))


def test_pictures_that_do_not_fit_into_memory_lie_in_a_file() -> None:
    tight = empty_pixels(10, 32, free=1000)
    tight[3] = 7
    assert tight.shape == (10, 3, 32, 32)
    assert tight[3].unique().tolist() == [7]
    assert not list(cache_dir().glob("*"))
    assert memory_available() is None or memory_available() > 0
