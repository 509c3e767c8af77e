"""The loader's promises: every label once, the right window, and one stream however it is cut."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.errors import TokenError
from ehrseq.tokens.loader import Loader, LoaderState
from ehrseq.tokens.packing import Examples, Packing, previous_of

DAY = 86_400_000_000


def store_of(lengths: list[int], seed: int = 0) -> Any:
    """A store whose codes number the tokens from 1, so that a batch tells which token stands where."""
    random = np.random.default_rng(seed)
    tokens = sum(lengths)
    offsets = np.append(0, np.cumsum(lengths))
    times = [np.sort(random.integers(0, 100 * DAY, length)) for length in lengths]
    return SimpleNamespace(
        code=np.arange(1, tokens + 1, dtype=np.int32),
        time=np.concatenate(times),
        value=np.where(random.random(tokens) < 0.5, random.normal(size=tokens), np.nan).astype(np.float32),
        bin=random.integers(0, 5, tokens).astype(np.int16),
        unit=random.integers(0, 3, tokens).astype(np.int16),
        modality=np.zeros(tokens, np.int8),
        previous=np.zeros(tokens, np.int32),
        zone=random.integers(-4, 5, tokens).astype(np.int8),
        offsets=offsets,
        birth=np.full(len(lengths), -10_000 * DAY),
        timezone="Europe/Berlin",
        **beside(tokens, random),
    )


def beside(tokens: int, random: np.random.Generator) -> dict[str, Any]:
    """Bags of up to three codes, and vectors of two side arrays; each entry tells its position."""
    bag = np.repeat(np.arange(tokens), random.integers(0, 4, tokens))
    dense = np.flatnonzero(random.random(tokens) < 0.2)
    arrays = {name: SpansInMemory(np.arange(tokens * width).reshape(tokens, width)) for name, width in WIDTHS}
    return {
        "bag_token": bag,
        "bag_code": (bag + 1).astype(np.int32),
        "bag_weight": random.random(len(bag)).astype(np.float32),
        "dense_token": dense,
        "dense_array": (dense % 2).astype(np.int8),
        "dense_row": dense,
        "spans": arrays.__getitem__,
        "vocabulary": {"spans": [{"name": name, "dim": width, "rms": 2.0} for name, width in WIDTHS]},
    }


WIDTHS = (("xray", 3), ("genome", 2))


class SpansInMemory:
    def __init__(self, rows: Any) -> None:
        self.rows, self.header = rows.astype(np.float32), SimpleNamespace(dim=rows.shape[1])

    def read(self, rows: Any) -> Any:
        return self.rows[rows]


def examples_of(store: Any, labels: list[tuple[int, float]]) -> Examples:
    """Labels from (subject, fraction of its tokens visible)."""
    subject = np.asarray([subject for subject, _ in labels], np.int64)
    length = np.diff(store.offsets)[subject]
    position = np.clip(np.ceil(np.asarray([part for _, part in labels]) * length), 1, length).astype(np.int64)
    number = len(labels)
    return Examples(
        subject=subject,
        position=position,
        task=(np.arange(number) % 2).astype(np.int32),
        value=(np.arange(number) % 3 == 0).astype(np.float32),
        split=np.zeros(number, np.int8),
        prediction_time=store.time[store.offsets[subject] + position - 1] + DAY,
        tasks=np.asarray(["a", "b"]),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, Examples, int]:
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    one = st.tuples(st.integers(0, len(lengths) - 1), st.floats(0, 1))
    store = store_of(lengths)
    return store, examples_of(store, draw(st.lists(one, min_size=1, max_size=40))), draw(st.integers(1, 16))


def a_case(labels: int = 60) -> tuple[Any, Examples]:
    random = np.random.default_rng(1)
    store = store_of(random.integers(1, 40, 20).tolist())
    asked = [(int(random.integers(0, 20)), float(random.random())) for _ in range(labels)]
    return store, examples_of(store, asked)


def loader_of(store: Any, examples: Examples, **changes: Any) -> Loader:
    settings = {"context": 16, "row_length": 32, "batch_rows": 4, **changes}
    return Loader(store, examples, examples.rows(), **settings)


def test_bags_and_vectors_stand_at_their_positions() -> None:
    store, examples = a_case()
    loader, seen = loader_of(store, examples), set()
    for batch in loader.epoch():
        rows, width = batch["code"].shape
        for row in range(rows):
            token = {at: int(batch["code"][row, at]) - 1 for at in np.flatnonzero(batch["segment"][row])}
            expected = [
                (at, int(store.bag_code[entry]), float(store.bag_weight[entry]))
                for at, number in token.items()
                for entry in np.flatnonzero(store.bag_token == number)
            ]
            there = batch["bag_at"][row] < width
            given = [batch[name][row][there].tolist() for name in ("bag_at", "bag_code", "bag_weight")]
            assert list(zip(*given, strict=True)) == expected
            assert not batch["bag_weight"][row][~there].any()
            for number, (name, _) in enumerate(WIDTHS):
                mine = {at: n for at, n in token.items() if n in store.dense_token and n % 2 == number}
                there = batch[f"dense_at.{name}"][row] < width
                assert batch[f"dense_at.{name}"][row][there].tolist() == list(mine)
                vectors = batch[f"dense.{name}"][row]
                assert np.array_equal(vectors[there], store.spans(name).rows[list(mine.values())] / 2)
                assert not vectors[~there].any()
                seen |= mine.keys()
    assert seen


@given(cases(), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_whatever_fills_the_rows_finds_its_place(case: tuple[Any, Examples, int], epoch: int) -> None:
    store, examples, context = case
    loader = loader_of(store, examples, context=context, row_length=16, seed=epoch)
    batches = [*loader.epoch(), *loader.epoch()]
    shapes = {tuple((name, array.shape) for name, array in batch.items()) for batch in batches}
    assert len(shapes) == 1  # one compilation
    windows = loader._windows
    inside = (windows.start[:, None] <= store.bag_token) & (
        store.bag_token < (windows.start + windows.length)[:, None]
    )
    given = sum(int((batch.get("bag_at", np.full(1, 16)) < 16).sum()) for batch in batches)
    assert given == 2 * int(inside.sum())


def test_what_a_store_does_not_have_is_not_in_its_batches() -> None:
    store, examples = a_case()
    for name in ("bag_token", "bag_code", "bag_weight", "dense_token", "dense_array", "dense_row"):
        setattr(store, name, getattr(store, name)[:0])
    store.timezone = None
    batch = next(loader_of(store, examples).epoch())
    assert not [name for name in batch if name.startswith(("bag", "dense", "clock"))]


def test_the_clock_is_local() -> None:
    store, examples = a_case()
    for batch in loader_of(store, examples).epoch():
        for row, at in zip(*np.nonzero(batch["segment"]), strict=True):
            token = batch["code"][row, at] - 1
            days = store.time[token] / DAY + store.zone[token] / 96
            assert batch["clock"][row, at] == pytest.approx(days % 10_227, abs=1e-3)
        assert np.isnan(batch["clock"][batch["segment"] == 0]).all()


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(np.array_equal(left[name], right[name], equal_nan=True) for name in left)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_label_comes_once_with_its_own_window(case: tuple[Any, Examples, int]) -> None:
    store, examples, context = case
    seen = []
    for batch in loader_of(store, examples, context=context, seed=3).epoch():
        for row, seat in zip(*np.nonzero(batch["label_row"] >= 0), strict=True):
            label = int(batch["label_row"][row, seat])
            seen.append(label)
            at, segment = batch["label_at"][row, seat], batch["segment"][row]
            visible = (segment == segment[at]) & (np.arange(len(segment)) <= at)
            first = int(store.offsets[examples.subject[label]])
            stop = first + int(examples.position[label])
            start = max(first, stop - context)
            assert batch["code"][row][visible].tolist() == store.code[start:stop].tolist()
            assert batch["position"][row][visible].tolist() == list(range(stop - start))
            assert batch["label_value"][row, seat] == examples.value[label]
            assert batch["label_task"][row, seat] == examples.task[label]
            assert batch["label_weight"][row, seat] == 1
    assert sorted(seen) == list(range(len(examples)))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_padding_stands_only_at_the_end_of_rows(case: tuple[Any, Examples, int]) -> None:
    store, examples, context = case
    for batch in loader_of(store, examples, context=context).epoch():
        for segment in batch["segment"]:
            used = np.count_nonzero(segment)
            assert np.all(segment[used:] == 0)
            assert np.all(np.diff(segment[:used]) >= 0)
            assert np.all(np.diff(segment[:used]) <= 1)
        assert batch["label_row"].shape == batch["label_weight"].shape
        assert np.all((batch["label_weight"] == 0) == (batch["label_row"] < 0))


def test_labels_with_short_prefixes_share_a_segment_and_others_do_not() -> None:
    store = store_of([30])
    examples = examples_of(store, [(0, 4 / 30), (0, 10 / 30), (0, 20 / 30), (0, 25 / 30), (0, 25 / 30)])
    loader = loader_of(store, examples)
    assert (
        loader.tokens == 10 + 16 + 16
    )  # [0, 10) for two labels; a window of their own for prefixes 20 and 25
    assert loader.labels == 5


def test_times_are_exact_and_do_not_see_the_future() -> None:
    store, examples = a_case()
    batch = next(loader_of(store, examples, shuffle=False).epoch())
    for row in range(4):
        used = np.flatnonzero(batch["segment"][row])
        token = batch["code"][row][used] - 1
        birth = store.birth[0]
        np.testing.assert_allclose(batch["age"][row][used], (store.time[token] - birth) / DAY, rtol=1e-6)
        for segment in np.unique(batch["segment"][row][used]):
            mine = used[batch["segment"][row][used] == segment]
            expected = (store.time[token[mine - used[0]]] - store.time[token[mine[0] - used[0]]]) / DAY
            np.testing.assert_allclose(batch["time"][row][mine], expected, rtol=1e-6, atol=1e-9)
    assert np.all(np.isnan(batch["age"][batch["segment"] == 0]))


def test_static_events_stand_at_the_origin_of_time() -> None:
    store = store_of([5])
    store.time = np.asarray([0, 0, 9 * DAY, 10 * DAY, 12 * DAY])
    store.birth = np.asarray([0])
    batch = next(loader_of(store, examples_of(store, [(0, 1.0)])).epoch())
    assert batch["time"][0, :5].tolist() == [0, 0, 0, 1, 3]
    assert batch["age"][0, :5].tolist() == [0, 0, 9, 10, 12]
    assert batch["label_time"][0, 0] == 4
    store.birth = np.asarray([np.iinfo(np.int64).min])
    batch = next(loader_of(store, examples_of(store, [(0, 1.0)])).epoch())
    assert np.all(np.isnan(batch["age"]))
    assert batch["time"][0, :5].tolist() == [0, 0, 9, 10, 12]


def test_before_and_after_are_the_neighbours_of_the_same_code() -> None:
    store, examples = a_case()
    store.code = np.random.default_rng(0).integers(1, 5, len(store.code)).astype(np.int32)
    store.previous = previous_of(store.code, np.diff(store.offsets))
    for batch in loader_of(store, examples).epoch():
        for code, segment, before, after in zip(
            batch["code"], batch["segment"], batch["before"], batch["after"], strict=True
        ):
            for place in np.flatnonzero(segment):
                alike = np.flatnonzero((code == code[place]) & (segment == segment[place]))
                assert before[place] == max(alike[alike < place], default=-1)
                later = min(alike[alike > place], default=None)
                assert after[place] == later if later is not None else after[place] >= len(code)


@pytest.mark.parametrize("cut", [0, 1, 3, 7, 11])
def test_a_stream_goes_on_where_it_stopped(cut: int) -> None:
    store, examples = a_case(200)

    def stream(loader: Loader, batches: int) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        while len(out) < batches:
            for batch in loader.epoch():
                out.append(batch)
                if len(out) == batches:
                    break
        return out

    whole = loader_of(store, examples, seed=5)
    expected = stream(whole, 12)
    assert whole.batches < 12  # the cut falls into the second epoch too
    first = loader_of(store, examples, seed=5)
    begun = stream(first, cut)
    second = loader_of(store, examples, seed=0)
    second.state = LoaderState(**json.loads(json.dumps(first.state.to_json())))
    found = begun + stream(second, 12 - cut)
    assert all(same(left, right) for left, right in zip(found, expected, strict=True))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_one_stream(hosts: int) -> None:
    store, examples = a_case(100)
    alone = list(loader_of(store, examples, seed=2).epoch())
    parts = [list(loader_of(store, examples, seed=2, host=i, hosts=hosts).epoch()) for i in range(hosts)]
    for number, batch in enumerate(alone):
        for host in range(hosts):
            mine = parts[host][number]
            assert all(np.array_equal(mine[name], batch[name][host::hosts], equal_nan=True) for name in batch)


def test_epochs_differ_and_seeds_differ_and_planned_order_does_not() -> None:
    store, examples = a_case(200)

    def order(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        loader = loader_of(store, examples, seed=seed, shuffle=shuffle)
        loader.state = LoaderState(seed, epoch)
        return [label for batch in loader.epoch() for label in batch["label_row"][batch["label_row"] >= 0]]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)
    assert order(0, 0, shuffle=False) == order(1, 1, shuffle=False)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 5)), max_size=60), st.integers(0, 3))
def test_a_packing_places_all_windows_without_overlap(windows: list[tuple[int, int]], epoch: int) -> None:
    lengths = np.asarray([length for length, _ in windows], np.int64)
    labels = np.asarray([count for _, count in windows], np.int64)
    packing = Packing(lengths, labels, row_length=20, row_labels=8)
    rows = packing.rows(seed=1, epoch=epoch)
    assert sorted(rows.window.tolist()) == list(range(len(windows)))
    assert len(rows) == packing.count
    for row in range(len(rows)):
        mine = slice(rows.offsets[row], rows.offsets[row + 1])
        length = lengths[rows.window[mine]]
        assert rows.column[mine].tolist() == (np.cumsum(length) - length).tolist()
        assert length.sum() <= 20
        assert labels[rows.window[mine]].sum() <= packing.row_labels


def test_packing_wastes_little() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 257, 5000)
    packing = Packing(lengths, np.ones(5000, np.int64), row_length=512)
    assert lengths.sum() / (packing.count * 512) > 0.97


def test_labels_of_another_store_are_refused() -> None:
    store, examples = a_case()
    with pytest.raises(TokenError, match="Label again"):
        loader_of(store_of([3]), examples)
    with pytest.raises(TokenError, match="outside"):
        loader_of(store_of([1] * 20), examples)
    with pytest.raises(TokenError, match="row_length"):
        loader_of(store, examples, row_length=8)
    with pytest.raises(TokenError, match="hosts"):
        loader_of(store, examples, hosts=3)
    with pytest.raises(TokenError, match="unknown split"):
        examples.rows("test")


def test_examples_are_read_back(tmp_path: Any) -> None:
    _, examples = a_case()
    arrays = {name: getattr(examples, name) for name in Examples.__slots__ if name != "several"}
    np.savez(tmp_path / "examples.npz", **arrays)
    assert np.array_equal(Examples.load(tmp_path).position, examples.position)
    del arrays["task"]
    np.savez(tmp_path / "examples.npz", **arrays)
    with pytest.raises(TokenError, match="'task'"):
        Examples.load(tmp_path)
    with pytest.raises(TokenError, match="no such file"):
        Examples.load(tmp_path / "nothing.npz")
