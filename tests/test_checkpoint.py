import copy
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from snvrag.checkpoint import (
    Checkpoint,
    checkpoints,
    load_weights,
    newest_checkpoint,
    remove_leftovers,
    save_checkpoint,
    save_weights,
)
from snvrag.config import ModelConfig
from snvrag.errors import InputError, MismatchError
from snvrag.model import RagBert

CONFIG = ModelConfig(dims=8, layers=1, heads=1, af_frequencies=2)


def make_pair(seed=0, config=CONFIG):
    torch.manual_seed(seed)
    model = RagBert(config, 16)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def take_step(model, optimizer):
    loss = sum((p * torch.randn_like(p)).sum() for p in model.parameters())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_restored_run_goes_on_as_if_undisturbed(tmp_path):
    model, optimizer = make_pair()
    take_step(model, optimizer)
    path = save_checkpoint(tmp_path / "c", model, optimizer, {"step": 1, "rows": [1]})
    for _ in range(3):
        take_step(model, optimizer)
    other, other_optimizer = make_pair(seed=9)
    saved = Checkpoint.read(path)
    saved.restore(other, other_optimizer)
    assert saved.state["rows"] == [1]
    for _ in range(3):
        take_step(other, other_optimizer)
    assert same_weights(model, other)


def test_equal_weights_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        save_weights(make_pair()[0], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_only_the_last_two_checkpoints_stay_and_incomplete_ones_do_not_count(tmp_path):
    model, optimizer = make_pair()
    for step in (5, 20, 100):
        save_checkpoint(tmp_path / "c", model, optimizer, {"step": step})
    (tmp_path / "c" / "step-00000200").mkdir()
    names = [path.name for path in checkpoints(tmp_path / "c")]
    assert names == ["step-00000020", "step-00000100"]


@pytest.mark.parametrize("whole", [0, 1])
def test_damaged_checkpoints_of_later_steps_cost_no_new_one(tmp_path, whole):
    """Pruned by name alone, the new checkpoints were removed as they were written."""
    folder = tmp_path / "checkpoints"
    model, optimizer = make_pair()
    take_step(model, optimizer)
    for step in (10, 20, 30):
        save_checkpoint(folder, model, optimizer, {"step": step})
    for path in checkpoints(folder)[whole:]:
        cut_short(path / "model.safetensors")
    save_checkpoint(folder, model, optimizer, {"step": 21 * whole + 1})
    kept = [20, 22] if whole else [1]
    assert sorted(p.name for p in folder.iterdir()) == [f"step-{n:08d}" for n in kept]
    assert newest_checkpoint(folder).state["step"] == kept[-1]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_others_may_read_what_the_umask_lets_them(tmp_path, umask):
    model, optimizer = make_pair()
    take_step(model, optimizer)
    before = os.umask(umask)
    try:
        save_weights(model, tmp_path / "w")
        path = save_checkpoint(tmp_path / "c", model, optimizer, {"step": 1})
    finally:
        os.umask(before)
    for file in (tmp_path / "w", *path.iterdir()):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask, file


def test_weights_of_another_network_are_refused_with_the_difference(tmp_path):
    save_weights(make_pair()[0], tmp_path / "w")
    other = make_pair(config=ModelConfig(dims=8, layers=2, heads=1, af_frequencies=2))[0]
    before = copy.deepcopy(other)
    with pytest.raises(MismatchError, match=r"blocks\.1"):
        load_weights(other, tmp_path / "w")
    assert same_weights(other, before)


@pytest.mark.parametrize("damage", ["truncate", "foreign", "absent", "pickle"])
def test_damaged_weights_are_an_input_error(tmp_path, damage):
    path = tmp_path / "w"
    model = make_pair()[0]
    save_weights(model, path)
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "foreign":
        save_file(model.state_dict(), path)
    elif damage == "absent":
        path.unlink()
    else:
        torch.save(model.state_dict(), path)
    with pytest.raises(InputError, match="w"):
        load_weights(model, path)


def test_a_state_of_another_version_is_refused(tmp_path):
    model, optimizer = make_pair()
    take_step(model, optimizer)
    path = save_checkpoint(tmp_path / "c", model, optimizer, {"step": 1})
    text = (path / "state.json").read_text()
    version = '"format_version": 4'
    (path / "state.json").write_text(text.replace(version, '"format_version": 9'))
    with pytest.raises(InputError, match="version 9"):
        Checkpoint.read(path)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, caplog, name, damage):
    model, optimizer = make_pair()
    for step in (1, 2):
        take_step(model, optimizer)
        save_checkpoint(tmp_path / "c", model, optimizer, {"step": step, "rows": [0] * 100})
    damage(tmp_path / "c" / "step-00000002" / name)
    found = newest_checkpoint(tmp_path / "c")
    assert found.state["step"] == 1
    assert "step-00000002" in caplog.text


def test_without_a_whole_checkpoint_there_is_none(tmp_path, caplog):
    assert newest_checkpoint(tmp_path / "c") is None
    assert caplog.text == ""
    model, optimizer = make_pair()
    take_step(model, optimizer)
    cut_short(save_checkpoint(tmp_path / "c", model, optimizer, {"step": 1}) / "model.safetensors")
    assert newest_checkpoint(tmp_path / "c") is None
    assert "step-00000001" in caplog.text


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    model, optimizer = make_pair()
    take_step(model, optimizer)
    whole = save_checkpoint(tmp_path / "checkpoints", model, optimizer, {"step": 1})
    half = tmp_path / "checkpoints" / ".step-00000002.17-ab.tmp"
    half.mkdir()
    (half / "model.safetensors").touch()
    (tmp_path / ".model.safetensors.17-cd.tmp").touch()
    others = {"notes.tmp", ".report.html.17-ef.tmp", ".notes.tmp"}
    for name in others:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoints", *others}
    assert list((tmp_path / "checkpoints").iterdir()) == [whole]


def test_another_version_is_not_taken_for_damage(tmp_path):
    model, optimizer = make_pair()
    for step in (1, 2):
        take_step(model, optimizer)
        path = save_checkpoint(tmp_path / "c", model, optimizer, {"step": step})
    text = (path / "state.json").read_text()
    (path / "state.json").write_text(text.replace('"format_version": 4', '"format_version": 9'))
    with pytest.raises(InputError, match="version 9"):
        newest_checkpoint(tmp_path / "c")
