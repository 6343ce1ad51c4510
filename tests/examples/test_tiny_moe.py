"""The trained example: it has learned its language, its routing is skewed, and it never saw what it is measured on."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from craftc.models.fingerprint import fingerprint_model
from craftc.models.model_file import load_model_source
from craftc.models.workload import WorkloadInputs
from craftc.passes.analysis.profile_loads import ProfileLoads
from craftc.passes.pipelines import profiled
from examples.tiny_moe import model as tiny_moe
from examples.tiny_moe import train


@pytest.fixture(scope="module")
def model():
    return tiny_moe.build_model()


@pytest.fixture(scope="module")
def batches():
    return list(tiny_moe.calibration_inputs())


def test_it_predicts_held_out_source_far_better_than_chance(model, batches):
    bits, predicted, counts = 0.0, 0, torch.zeros(256)
    with torch.no_grad():
        for batch in batches[:8]:
            input_ids_BT, seen_BT = batch["input_ids"], batch["attention_mask"].bool()
            logits = model(**batch).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.mT, input_ids_BT[:, 1:], reduction="none")
            bits += float(loss[seen_BT[:, 1:]].sum()) / math.log(2)
            predicted += int(seen_BT[:, 1:].sum())
            counts += input_ids_BT[seen_BT].bincount(minlength=256)
    frequencies = counts[counts > 0] / counts.sum()
    unigram_bits = float(-(frequencies * frequencies.log2()).sum())
    assert 4 < unigram_bits < 6  # knowing how often each byte occurs here: already far below the 8 of chance
    assert bits / predicted < 0.65 * unigram_bits


def test_its_routing_is_skewed_by_training_alone(model, batches):
    compilation = profiled(model, WorkloadInputs(batches[0], lambda: batches), ProfileLoads())
    counts_SLE = compilation.loads.counts_SLE
    assert counts_SLE.shape == (24, 6, 16)
    assert compilation.loads.top_k == (2,) * 6
    load_LE = counts_SLE.sum(axis=0)
    skew_L = load_LE.max(axis=1) / load_LE.mean(axis=1)
    assert (skew_L > 2).sum() >= 2
    assert skew_L.max() / skew_L.min() > 1.2  # layers differ: there is something to allocate
    assert not model.config.output_router_logits  # no balancing loss is added
    assert model.config.router_jitter_noise == 0


def test_training_and_held_out_files_never_overlap(batches):
    trained, held_out = (tiny_moe.source_files(held_out=side) for side in (False, True))
    assert not set(trained) & set(held_out)
    assert 0.05 < len(held_out) / (len(trained) + len(held_out)) < 0.2
    training_text = b"\n".join(path.read_bytes() for path in trained)
    texts = [bytes(row[row != tiny_moe.PAD].tolist()) for batch in batches for row in batch["input_ids"]]
    # Some modules repeat parts of others (wave.py holds a copy of chunk.py): a few sequences may, the rest may not.
    assert sum(text in training_text for text in texts) < 0.1 * len(texts)


def test_calibration_inputs_are_the_same_every_time_and_some_are_padded(batches):
    again = list(tiny_moe.calibration_inputs())
    assert len(again) == tiny_moe.CALIBRATION_BATCHES
    for first, second in zip(batches, again, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum(not batch["attention_mask"].all() for batch in batches) > len(batches) // 2


def test_padding_does_not_change_what_comes_before_it(model):
    texts = [b"import os\n", b"class Example:\n    pass\n"]
    with torch.no_grad():
        padded = model(**tiny_moe.padded_batch(texts)).logits[0, : len(texts[0])]
        alone = model(**tiny_moe.padded_batch(texts[:1])).logits[0]
    assert torch.allclose(padded, alone, atol=1e-4)


def test_example_inputs_fit_the_model(model):
    example = tiny_moe.example_inputs()
    with torch.no_grad():
        assert model(**example).logits.shape == (*example["input_ids"].shape, 256)


def test_the_committed_config_is_the_one_training_uses(model):
    for name, value in train.CONFIG.items():
        assert getattr(model.config, name) == value


def test_its_folder_is_a_hugging_face_checkpoint_too():
    source = load_model_source(str(tiny_moe.HERE))
    assert source.name == "tiny_moe"
    assert source.fingerprint == fingerprint_model(tiny_moe.build_model().bfloat16())


def test_training_lowers_the_loss_and_writes_what_build_model_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "STEPS", 4)
    monkeypatch.setattr(train, "WARMUP_STEPS", 1)
    monkeypatch.setattr(train, "REPORT_EVERY", 2)
    monkeypatch.setattr(train, "HERE", tmp_path)
    monkeypatch.setattr(tiny_moe, "HERE", tmp_path)
    train.main()
    losses = [float(line.split("training ")[1].split(",")[0]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert losses[1] < losses[0] < 8.2
    weights = tiny_moe.build_model().state_dict()
    assert all(torch.isfinite(weight).all() and weight.dtype == torch.float32 for weight in weights.values())


def test_batches_are_from_different_files(batches):
    pairs = itertools.pairwise(batches)
    assert all(not torch.equal(a["input_ids"][0], b["input_ids"][0]) for a, b in pairs)
